// Everything is readable without this script: it only hides, shows and points.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const element = (name, content, parent) => {
    const made = document.createElement(name);
    if (content) made.textContent = content;
    if (parent) parent.append(made);
    return made;
  };

  // light and dark
  const theme = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`); };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  system.addEventListener("change", nameTheme);
  nameTheme();

  // one of several views at a time; those of one group move together
  const own = (box, selector) => [...box.children].filter((child) => child.matches(selector));
  const choose = (box, name) => {
    const options = own(box, ".choice");
    if (!options.some((option) => option.dataset.name === name)) return;
    for (const option of options) option.hidden = option.dataset.name !== name;
    for (const button of box.querySelectorAll(":scope > .picker > button")) button.setAttribute("aria-pressed", String(button.textContent === name));
  };
  const boxes = [...document.querySelectorAll(".choices")];
  for (const box of boxes) {
    const names = own(box, ".choice").map((option) => option.dataset.name);
    if (names.length < 2) continue;
    const picker = element("div");
    picker.className = "picker";
    picker.setAttribute("role", "group");
    picker.setAttribute("aria-label", box.dataset.label);
    element("span", box.dataset.label, picker);
    for (const name of names) {
      const button = element("button", name, picker);
      button.type = "button";
      button.addEventListener("click", () => {
        const together = box.dataset.group ? boxes.filter((other) => other.dataset.group === box.dataset.group) : [box];
        for (const other of together) choose(other, name);
      });
    }
    box.prepend(picker);
    choose(box, names[0]);
  }

  // legends
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const series of button.closest(".scope").querySelectorAll(".series")) {
        if (series.dataset.key === button.dataset.key) series.classList.toggle("off", !shown);
      }
    });
  }

  // crosshair: the numbers come from the table beneath the plot
  const tip = element("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  const hide = (svg) => { tip.hidden = true; svg.querySelector(".crosshair").classList.remove("on"); };
  const hiddenKeys = (svg) => {
    const scope = svg.closest(".scope");
    const off = scope ? scope.querySelectorAll('.legend button[aria-pressed="false"]') : [];
    return new Set([...off].map((button) => button.dataset.key));
  };
  const point = (svg, places, index) => {
    const cross = svg.querySelector(".crosshair");
    cross.setAttribute("x1", places[index]);
    cross.setAttribute("x2", places[index]);
    cross.classList.add("on");
    svg.dataset.at = index;
    const table = svg.closest("figure").querySelector("table");
    const heads = table.tHead.rows[0].cells;
    const row = table.tBodies[0].rows[index];
    const off = hiddenKeys(svg);
    tip.replaceChildren();
    element("b", `${heads[0].textContent}: ${row.cells[0].textContent}`, tip);
    for (let column = 1; column < heads.length; column += 1) {
      const value = row.cells[column].textContent;
      if (value === "–" || off.has(heads[column].dataset.key) || "quiet" in heads[column].dataset) continue;
      const [, name, unit] = heads[column].textContent.match(/^(.*?)(?: \(([^()]*)\))?$/s);
      const entry = element("span", "", tip);
      element("i", name, entry).style.fontStyle = "normal";
      element("i", unit ? `${value} ${unit}` : value, entry).style.fontStyle = "normal";
    }
    const canvas = svg.parentElement;
    canvas.append(tip);
    tip.hidden = false;
    const share = places[index] / svg.viewBox.baseVal.width;
    const at = share * svg.getBoundingClientRect().width;
    const room = canvas.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, share > 0.5 ? at - tip.offsetWidth - 12 : at + 12))}px`;
    tip.style.top = "28px";
  };
  for (const svg of document.querySelectorAll("svg.lines")) {
    const places = svg.dataset.x.split(",").map(Number);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      let nearest = 0;
      places.forEach((place, index) => { if (Math.abs(place - x) < Math.abs(places[nearest] - x)) nearest = index; });
      point(svg, places, nearest);
    });
    svg.addEventListener("pointerleave", () => hide(svg));
    svg.addEventListener("blur", () => hide(svg));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide(svg);
      if (!step) return;
      event.preventDefault();
      const at = svg.dataset.at === undefined ? (step > 0 ? -1 : places.length) : Number(svg.dataset.at);
      point(svg, places, Math.max(0, Math.min(places.length - 1, at + step)));
    });
  }

  // where in the report the reader is
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) for (const [id, link] of links) link.setAttribute("aria-current", String(id === entry.target.id));
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const id of links.keys()) watcher.observe(document.getElementById(id));
})();
