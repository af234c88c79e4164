"""One export file of a glucose sensor into what it says: whose it is by its headers, readings, doses, meals."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from tstune.data.cleaning.rules import CleaningReport
from tstune.domains import Domain, domain_of
from tstune.errors import DataError

MG_DL, MMOL_L = "mg/dL", "mmol/L"

GLUCOSE, SCAN, BOLUS, INJECTED, RATE, PERCENT, CARBS = (
    "glucose",
    "scan",
    "bolus",
    "injected",
    "rate",
    "percent",
    "carbs",
)
"""Kinds of a value: readings, and readings taken by hand; units of insulin at once, the long-acting kind among them;
units an hour that a pump gives, or a share of them; grams of carbohydrates."""
AMOUNTS = (GLUCOSE, SCAN, BOLUS, INJECTED, RATE, PERCENT, CARBS)
TIME, DATE, CLOCK = "time", "date", "clock"
EVENT, SUBTYPE, DEVICE, UNIT, MINUTES, HOW = "event", "subtype", "device", "unit", "minutes", "how"
MARKER, PERSON = "marker", "person"

# What a column is, by its name in small letters without accents; the first that fits counts, "" is left out. Words of
# English, German, French, Spanish, Italian, Dutch, Portuguese and the Scandinavian languages.
_COLUMNS = (
    (
        "",
        r"\bratio|verhaltnis|serving|portion|racion|non.?numer|nicht numer|no.?numer|niet.?numer|ikke.?numer|ej numer",
    ),
    (
        "",
        r"rate of change|anderungsrate|variation|variacion|variazione|verandering|andring|transmitter time|new device",
    ),
    (CARBS, r"carb|kohlenhydrat|glucides|koolhydr|kolhydr|karbohydr|kulhydr|hidratos|ch_gr"),
    (PERCENT, r"temp.*basal.*(amount|menge|quantite|cantidad)"),
    (HOW, r"temp.*basal.*typ"),
    (MINUTES, r"temp.*basal.*(duration|dauer|duree|duracion)|^duration( \(minutes\))?$|^dauer \(minuten\)"),
    ("", r"input|eingabe|bwz|bolusexpert|target|calibra|kalibr|etalonn|isig|keton|ceton|chetoni|strip|streifen"),
    ("", r"bandelette|tira|striscia|bg.reading|bg_level|finger|blood gluc|blutzucker|bz-mess|meal ins|correc|korrekt"),
    ("", r"user change|selected|gewahlt|prime|active|aktiv|total|initial|anfang|extended|verzog|bolus number|source$"),
    (SCAN, r"scan|numerisation|escane|scansione|digitaliza"),
    (GLUCOSE, r"gluco|gluk|glyc|glic|sgv|udt_cgms"),
    (INJECTED, r"long.?acting|depotinsulin|action (lente|prolongee)|accion (lenta|prolongada)|lunga durata|langwerk"),
    (INJECTED, r"langsam|lang ?wirk|slow_insulin|langtids|langverk"),
    (RATE, r"^basal.?rate|^basalrate|^rate$|^debit.*basal"),
    (BOLUS, r"volume delivered|bolus.*(deliver|abgegeben)|rapid.?acting|schnell ?wirk|action rapide|accion rapida"),
    (BOLUS, r"azione rapida|snelwerk|hurtig|insulin delivered|abgegebenes insulin|insulin.?value|insulinwert"),
    (BOLUS, r"(valeur|valor|valore).*insulin|insulinewaarde|insulinvarde|fast_insulin|^(bolus|insulin)( \(\w\))?$"),
    (SUBTYPE, r"sub-?typ|sous-type|sottotipo|subcategor"),
    (EVENT, r"event.?type|ereignis(typ|art)|type d.evenement|tipo de? evento|tipo di evento|gebeurtenis|handelsetyp"),
    (EVENT, r"haendelsestype|^type$|^class$|type of reading"),
    (MARKER, r"event.?marker|ereignismarke"),
    (PERSON, r"patient.?info"),
    (DEVICE, r"serial|seriennummer|serienummer|numero de serie|numero di serie|source device|quellgerat|sensorid"),
    (TIME, r"timestamp|zeitstempel|horodatage|marca temporal|sello de tiempo|data e ora|tijdstempel|tidss?tamp"),
    (TIME, r"tidsstempe|fecha y hora|created_at|carimbo|\((\w)\1{3}-(\w)\2-"),
    (DATE, r"^(date|datum|dato|fecha|data|day|tag|dag)$"),
    (CLOCK, r"^(time|zeit|uhrzeit|klokkeslaet|hora|ora|heure|tijd|tid)$"),
)

LONG_ACTING = re.compile(r"long|lang|lent|prolong|lunga|depot|basal|slow")
"""In the subtype of a dose: it is the kind that lasts a day."""
ENTERED = re.compile(r"(?P<what>insulin|meal|carb|mahlzeit|kohlenhydrat)\D*(?P<amount>\d+(?:[.,]\d+)?)", re.IGNORECASE)
"""Doses and meals that a Guardian Connect keeps as text in its event marker."""


@dataclass(frozen=True)
class Vendor:
    """Whose export it is.

    Attributes:
        name: for the manifest.
        header: found in the names of the columns, in small letters without accents and joined by ``|``.
        columns: what a column is, asked before the words that all share; "" is left out.
        readings: the event that is a sensor reading; "" takes the one that most values have.
        scans: the event that is a reading taken by hand.
        unit: of the readings, where no header says it.
        day_first: dates begin with the day; None finds out.
    """

    name: str
    header: str
    columns: Mapping[str, str] = field(default_factory=dict)
    readings: str = ""
    scans: str = "(?!)"
    unit: str | None = None
    day_first: bool | None = None


_TIDEPOOL = {
    r"^tidepool data type$|^type$": EVENT, r"^utc time$|^time$": TIME, r"^value$": GLUCOSE, r"^units$": UNIT,
    r"^(normal|extended|dose\.total)$": BOLUS, r"^rate$": RATE, r"^duration": MINUTES, r"^deviceid$": DEVICE,
    r"^(carb.?input|nutrition\.carbohydrate\.net|carbs?)$": CARBS, r".*": "",
}  # fmt: skip
_NIGHTSCOUT = {
    r"^(date|created_at)$": TIME, r"^sgv$": GLUCOSE, r"^insulin$": BOLUS, r"^carbs$": CARBS, r"^absolute$": RATE,
    r"^percent$": PERCENT, r"^duration$": MINUTES, r"^(type|eventtype)$": EVENT, r"^device$": DEVICE, r".*": "",
}  # fmt: skip
_JUGGLUCO = {r"^unixtime$": TIME, r"^m(g/dl|mol/l)$": GLUCOSE, r"^sensorid$": DEVICE, r".*": ""}

VENDORS = (
    Vendor("Tidepool", r"tidepool data type|^(?=.*(upload|deviceid|devicetime))(?=.*\btype\b)(?=.*\btime\b)", _TIDEPOOL,
           r"^cbg$", unit=MMOL_L),
    Vendor("Nightscout", r"\bsgv\b|\beventtype\b", _NIGHTSCOUT, r"^sgv$", unit=MG_DL),
    Vendor("Nightscout exporter", r"^date\|time\|(glucose.*\|type\|device|event type\|insulin)", {}, r"^sgv$"),
    Vendor("Dexcom Clarity", r"\((\w)\1{3}-(\w)\2-(\w)\3|source device id"),
    Vendor("LibreView", r"record ?type|aufzeichnungstyp|type d.enregistrement|tipo d[ei] regist|opnametype|registertyp|"
           r"histor\w* (de |del |do |la )*gl[uiy]|scan glucose|glukosewert-verlauf|storico"),
    Vendor("Medtronic", r"isig|sensor.?glu[ck]|glucos\w+ (du|del|do) (capteur|sensor)|bwz|new device time"),
    Vendor("xDrip", r"udt_cgms", unit=MG_DL),
    Vendor("Juggluco", r"sensorid.*unixtime", _JUGGLUCO),
    Vendor("Levels", r"time \(utc\).*glucose", {r"^time \(utc\)$": TIME, r"^time \(local\)$": ""}, r"^timeseries$",
           r"^directread$"),
    Vendor("Nutrisense", r"class\|value.*occurred_at", {r"^value$": GLUCOSE, r"^occurred_at$": TIME, r"^class$": EVENT,
           r".*": ""}, r"^glucosemeasurement$", unit=MG_DL, day_first=False),
    Vendor("D1NAMO", r"^date\|time\|(glucose\|type|fast_insulin)", {}, r"^cgm$", unit=MMOL_L),
    Vendor("Glooko", r"cgm.?glu[ck]|insulin.?typ|^(timestamp|zeitstempel)\|(carbs|kohlenhydrate)"),
)  # fmt: skip
"""In the order in which they are asked."""
OHIO = Vendor("OhioT1DM", "(?!)", unit=MG_DL, day_first=True)
"""XML with elements of fixed names: it has no header."""


def plain(name: object) -> str:
    """A name in small letters, without accents and doubled spaces."""
    text = unicodedata.normalize("NFKD", str(name).translate(_LIGATURES))
    return re.sub(r"\s+", " ", "".join(c for c in text if not unicodedata.combining(c))).strip().lower()


_LIGATURES = str.maketrans({"ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "ß": "ss", "’": "'"})


def recognise(names: Sequence[str]) -> tuple[Vendor, dict[str, list[int]]] | None:
    """(vendor, kind -> places of its columns) of a header; None for a line that is none."""
    header = [plain(name) for name in names]
    line = "|".join(header)
    vendor = next((vendor for vendor in VENDORS if re.search(vendor.header, line)), None)
    if vendor is None:
        return None
    order = [*((kind, pattern) for pattern, kind in vendor.columns.items()), *_COLUMNS]
    kinds: dict[str, list[int]] = {}
    for place, name in enumerate(header):
        kind = next((kind for kind, pattern in order if re.search(pattern, name)), "")
        if kind:
            kinds.setdefault(kind, []).append(place)
    has_time = TIME in kinds or DATE in kinds or CLOCK in kinds
    return (vendor, kinds) if has_time and any(kind in kinds for kind in (*AMOUNTS, MARKER)) else None


def glucose() -> Domain:
    """What is known about glucose: its units, and what sensors write in the place of a reading."""
    return domain_of(MG_DL)


KINDS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xml", ".xlsx")

_HEADERLESS = re.compile(r'"?\d{4}-\d\d-\d\dT[\d:.]+Z"?([,;\t])"?\d{13}"?\1"?\d+"?\1')
_HEADERLESS_NAMES = "dateString,date,sgv,direction,device"  # what Nightscout's /entries.csv leaves out
_HEADER_WORD = re.compile(
    "gluco|gluk|glyc|glic|insulin|carb|kohlenh|glucides|data type|udt_cgms|unixtime|occurred_at|sgv", re.IGNORECASE
)
_CLOCKED = re.compile(r"\d:\d\d")  # what no header has, and nearly every other line
_END_OF_BLOCK = ("-------", "#")
_DATE = re.compile(r"(\d{1,4})[-./](\d{1,2})[-./](\d{1,4})")
_CLOCK = re.compile(
    r"(\d{1,2}):(\d{2})(?::(\d{2}(?:[.,]\d+)?))?\s*([AaPp])?\.?\s?[Mm]?\.?\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?"
)
_ZONE = re.compile(r"(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})$")
_OHIO = {  # element of the XML file -> kind of its events, and the attribute with the value
    "glucose_level": (GLUCOSE, "value"),
    "basal": (RATE, "value"),
    "temp_basal": (RATE, "value"),
    "bolus": (BOLUS, "dose"),
    "meal": (CARBS, "carbs"),
}
_TITLED = re.compile(
    r"name:|(?:generated by|erstellt von|genere par|generado por|generato da)[,;\t]|^(?:nutrisense|levels)[,;\t]"
)


@dataclass
class Table:
    """One table of a file: cells as text, and what its columns are.

    Attributes:
        vendor: whose it is.
        names: of all columns.
        kinds: kind, see the words above -> places of the columns that are it.
        cells: one column per place that has a kind.
    """

    vendor: Vendor
    names: Sequence[str]
    kinds: dict[str, list[int]]
    cells: pd.DataFrame

    def first(self, kind: str) -> pd.Series | None:
        """The cells of this kind, where several columns are it the first that says something; None without any."""
        places = self.kinds.get(kind)
        if not places:
            return None
        if len(places) == 1:
            return self.cells[places[0]]
        return self.cells[places].replace("", pd.NA).bfill(axis=1).iloc[:, 0].fillna("").astype(str)


_HEADER_BYTES = 1 << 16
"""Of a text, to see whose export it is."""


@dataclass
class Export:
    """What one file says.

    Attributes:
        path: the file.
        vendor: whose export it is.
        rows: `time`, `kind` (see the words above), `value`, `minutes` (how long a rate holds; NaN until the next)
            and `device`, in the order of the file.
        unit: of the readings; None without any.
        zoned: the times are UTC, else the local time of the device.
        day_first: how its dates were read; None where the year comes first.
        person: words by which the file names somebody: to tell people apart, never to be written anywhere.
    """

    path: Path
    vendor: str
    rows: pd.DataFrame
    unit: str | None = None
    zoned: bool = False
    day_first: bool | None = None
    person: frozenset[str] = field(default_factory=frozenset, repr=False)


def read_export(path: Path, report: CleaningReport) -> Export | None:
    """Read one file; None if it is no export that is known.

    Args:
        path: the file.
        report: gets what was found, without a word of the person.

    Raises:
        DataError: a file that is damaged, or whose times or units contradict each other.
    """
    try:
        tables, titles = _tables(path)
    except (ValueError, OSError, KeyError, ElementTree.ParseError, csv.Error):
        raise DataError(f"{path} cannot be read: it is damaged, or not what its ending says") from None
    if not tables:
        return _read_by_cgm_format(path)
    read = [_read(table, path, report) for table in tables]
    parts = [part for part in read if len(part.rows)] or read[:1]
    units = {part.unit: None for part in parts if part.unit}
    if len(units) > 1:
        raise DataError(f"{path} holds readings in {' and in '.join(units)}; export it again in one unit")
    if len({part.zoned for part in parts}) > 1:
        raise DataError(f"{path} holds local times and times with a zone; keep them in files of their own")
    return Export(
        path,
        parts[0].vendor,
        pd.concat([part.rows for part in parts], ignore_index=True),
        next(iter(units), None),
        parts[0].zoned,
        next((part.day_first for part in parts if part.day_first is not None), None),
        frozenset(_people(titles)).union(*(part.person for part in read)),
    )


def has_known_header(path: Path) -> bool:
    """True if a file begins a table, somewhere, with the header of a vendor."""
    try:
        if path.suffix.lower() in (".xml", ".xlsx", ".json", ".jsonl"):
            return bool(_tables(path)[0])
        with path.open("rb") as stream:
            return bool(_tables_of_text(_decode(stream.read(_HEADER_BYTES)))[0])
    except (ValueError, OSError, KeyError, ElementTree.ParseError, csv.Error):
        return False


# Files into tables of text


def _tables(path: Path) -> tuple[list[Table], list[str]]:
    """(tables that are known, lines above the first of them)."""
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return _tables_of_xml(path), []
    if suffix == ".xlsx":
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=str, keep_default_na=False)
        return [table for sheet in sheets.values() for table in _tables_of_sheet(sheet)], []
    text = _decode(path.read_bytes())
    if suffix in (".json", ".jsonl"):
        return _tables_of_json(text, lines=suffix == ".jsonl"), []
    return _tables_of_text(text)


def _decode(raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _tables_of_text(text: str) -> tuple[list[Table], list[str]]:
    """Blocks of lines: from a header that is known to the next one, or to a line that ends a block."""
    lines = text.splitlines()
    first = next((place for place, line in enumerate(lines[:20]) if _HEADERLESS.match(line)), None)
    if first is not None and not any(map(_HEADER_WORD.search, lines[:first])):
        lines.insert(first, _HEADERLESS_NAMES.replace(",", _HEADERLESS.match(lines[first])[1]))
    blocks: list[tuple[list[str], str, list[str]]] = []
    own, titles = None, []
    for line in lines:
        header = None
        if not _CLOCKED.search(line) and _HEADER_WORD.search(line):
            separator = max((",", ";", "\t", "|"), key=line.count)
            header = next(csv.reader([line], delimiter=separator))
        if header is not None and recognise(header):
            own = []
            blocks.append((header, separator, own))
        elif line.startswith(_END_OF_BLOCK):
            own = None
        elif own is not None:
            own.append(line)
        elif not blocks:
            titles.append(line)
    return [_table_of_lines(names, separator, rows) for names, separator, rows in blocks], titles


def _table_of_lines(names: list[str], separator: str, lines: list[str]) -> Table:
    vendor, kinds = recognise(names)
    width = max([len(names), *(line.count(separator) + 1 for line in lines)])
    options = {"sep": separator, "dtype": str, "keep_default_na": False, "skipinitialspace": True}
    text = "\n".join([separator * (width - 1), *lines])  # a first line of blanks, so that there is one
    cells = pd.read_csv(io.StringIO(text), header=None, names=range(width), usecols=_places(kinds), **options)
    return Table(vendor, names, kinds, cells[1:].reset_index(drop=True))


def _places(kinds: dict[str, list[int]]) -> list[int]:
    return sorted({place for own in kinds.values() for place in own})


def _tables_of_sheet(sheet: pd.DataFrame) -> Iterator[Table]:
    """The table of a worksheet; its header is the first row that is known."""
    rows = sheet.to_numpy().tolist()
    for place, names in enumerate(rows[:20]):
        table = _table(names, rows[place + 1 :])
        if table is not None:
            yield table
            return


def _tables_of_json(text: str, lines: bool) -> list[Table]:
    """Records, in a list, in lists by name, or one a line."""
    content = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    lists = [content] if isinstance(content, list) else [value for value in content.values() if isinstance(value, list)]
    tables = []
    for records in lists:
        frame = pd.json_normalize([record for record in records if isinstance(record, dict)])
        frame = frame.astype(object).where(frame.notna(), "").astype(str)
        tables.append(_table(list(frame.columns), frame.to_numpy().tolist()) if len(frame.columns) else None)
    return [table for table in tables if table is not None]


def _tables_of_xml(path: Path) -> list[Table]:
    """OhioT1DM: elements of a patient, with events as attributes."""
    patient = ElementTree.parse(path).getroot()
    rows = []
    for element in patient if patient.tag == "patient" else ():
        kind, attribute = _OHIO.get(element.tag, (None, ""))
        for event in element if kind else ():
            begin = event.get("ts") or event.get("ts_begin", "")
            end = event.get("ts_end", "") if element.tag == "temp_basal" else ""
            rows.append({"time": begin, "end": end, kind: event.get(attribute, "")})
    if not rows:
        return []
    cells = pd.DataFrame(rows).fillna("")
    length = _times(cells["end"], OHIO.day_first)[0] - _times(cells["time"], OHIO.day_first)[0]
    cells["minutes"] = (length / pd.Timedelta("1min")).map("{:g}".format).replace("nan", "")
    names = list(cells.columns)
    kinds = {name: [place] for place, name in enumerate(names) if name != "end"}
    return [Table(OHIO, names, kinds, cells.set_axis(range(len(names)), axis=1))]


def _table(names: Sequence[str], rows: list[list[str]]) -> Table | None:
    found = recognise(names)
    if found is None:
        return None
    vendor, kinds = found
    cells = {place: [row[place].strip() for row in rows] for place in _places(kinds)}
    return Table(vendor, names, kinds, pd.DataFrame(cells, dtype=object))


def _people(titles: list[str]) -> Iterator[str]:
    """Words of the lines above a table that name its owner."""
    for before, line in zip(["", *titles], titles, strict=False):
        cells = [cell.strip('" ') for cell in re.split("[,;\t]", line)]
        if re.search(r"last name|nachname", before, re.IGNORECASE):  # Medtronic
            yield from words_of(" ".join(cells[:3]))
        elif found := _TITLED.search(plain(line)):
            yield from words_of(re.split("[,;\t]", plain(line)[found.end() :])[0])


def words_of(text: str) -> list[str]:
    """Words of a text as names are compared: small, without accents and digits, not of one letter."""
    return [word for word in re.findall(r"[^\W\d_]+", plain(text)) if len(word) > 1]


# A table into rows


def _read(table: Table, path: Path, report: CleaningReport) -> Export:
    vendor, kinds = table.vendor, table.kinds
    stamps, zoned, day_first = _times(_time_texts(table), vendor.day_first, path)
    device, minutes = table.first(DEVICE), table.first(MINUTES)
    common = pd.DataFrame({
        "time": stamps,
        "minutes": np.nan if minutes is None else _minutes(minutes),
        "device": "" if device is None else device,
    })  # fmt: skip
    unit, values = _readings(table, stamps.notna(), path, report)
    values += [(kind, _numbers(table.first(kind))) for kind in (RATE, CARBS) if kind in kinds]
    values += _doses(table)
    if MARKER in kinds:
        entered = table.first(MARKER).str.extract(ENTERED)
        amounts, is_dose = _numbers(entered["amount"].fillna("")), entered["what"].str.lower() == "insulin"
        values += [(BOLUS, amounts.where(is_dose)), (CARBS, amounts.where(~is_dose))]
    parts = [common.assign(kind=kind, value=amounts)[amounts.notna().to_numpy()] for kind, amounts in values]
    rows = pd.concat([part for part in parts if len(part)] or parts[:1]).sort_index(kind="stable")
    timeless = rows["time"].isna()
    report.add("values_without_a_time", int(timeless.sum()), "left out")
    rows = rows[~timeless & ~((rows["kind"].isin((BOLUS, INJECTED, CARBS))) & (rows["value"] <= 0))]
    rows.loc[~rows["kind"].isin((RATE, PERCENT)), "minutes"] = np.nan
    people = {word for text in _texts_of(table, PERSON) for word in words_of(text)}
    return Export(path, vendor.name, rows.reset_index(drop=True), unit, zoned, day_first, frozenset(people))


def _texts_of(table: Table, kind: str) -> list[str]:
    return [] if kind not in table.kinds else [text for text in table.first(kind).unique() if text]


def _time_texts(table: Table) -> pd.Series:
    whole, date, clock = table.first(TIME), table.first(DATE), table.first(CLOCK)
    if whole is not None:
        return whole
    return clock if date is None else date if clock is None else date + " " + clock


def _times(texts: pd.Series, day_first: bool | None, path: Path | None = None) -> tuple[pd.Series, bool, bool | None]:
    """(times, are they UTC, was the day read first; None where the year comes first)."""
    digits = texts.str.fullmatch(r"\d{9,13}(\.\d+)?")
    if digits.any():
        numbers = pd.to_numeric(texts.where(digits), errors="coerce")
        seconds = numbers.where(numbers < 1e11, numbers / 1000)
        return pd.to_datetime(seconds, unit="s").dt.round("ms").astype("datetime64[ns]"), True, None
    written = texts.str.replace("/", "-", regex=False)
    stamps = pd.to_datetime(written, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
    stamps, rest = stamps.astype("datetime64[ns]"), stamps.isna() & (texts != "")
    zoned = bool(texts[~rest].str.contains(_ZONE).any())
    if not rest.any():
        return stamps, zoned, None
    parts = [(*text.replace(",", " ").split(None, 1), "", "")[:2] for text in texts[rest]]
    dates, date_of = pd.factorize(np.array([date for date, _ in parts], dtype=object))[::-1]
    clocks, clock_of = pd.factorize(np.array([clock.strip() for _, clock in parts], dtype=object))[::-1]
    after_midnight, at_zone, halves = _clocks(clocks)
    days, day_first = _dates(dates, day_first, halves, path)
    stamps[rest] = days[date_of] + after_midnight[clock_of]
    return stamps, zoned or at_zone, day_first


def _dates(
    texts: np.ndarray, day_first: bool | None, halves: bool, path: Path | None
) -> tuple[np.ndarray, bool | None]:
    """([dates] days, was the day read first)."""
    numbers = pd.Series(texts, dtype=object).str.extract(f"^{_DATE.pattern}$").apply(pd.to_numeric)
    first, second, third = numbers[0], numbers[1], numbers[2]
    year_first = first > 31
    short = first.notna() & ~year_first
    if not short.any():
        day_first = None
    elif day_first is None:
        american = halves or any("/" in text and year < 100 for text, year in zip(texts, third, strict=True))
        day_first = _is_day_first(first[short], second[short], third[short], american, path)
    day, month = (first, second) if day_first else (second, first)
    year = third.where(third >= 100, third + 2000)
    named = {"year": first.where(year_first, year), "month": second.where(year_first, month)}
    days = pd.to_datetime(pd.DataFrame(named | {"day": third.where(year_first, day)}), errors="coerce")
    return days.to_numpy("datetime64[ns]"), day_first


def _clocks(texts: np.ndarray) -> tuple[np.ndarray, bool, bool]:
    """([clocks] time since midnight, in UTC where one names its zone, has any a zone, has any an am or pm)."""
    parts = pd.Series(texts, dtype=object).str.extract(f"^(?:{_CLOCK.pattern})?$")
    hour, minute = pd.to_numeric(parts[0]), pd.to_numeric(parts[1]).fillna(0)
    half = parts[3].str.lower()
    hour = hour.where(half.isna(), hour % 12) + 12 * (half == "p")
    seconds = hour.fillna(0) * 3600 + minute * 60 + pd.to_numeric(parts[2].str.replace(",", ".")).fillna(0)
    offset = parts[4].str.extract(r"([+-])(\d{2}):?(\d{2})")
    ahead = (pd.to_numeric(offset[1]) * 3600 + pd.to_numeric(offset[2]) * 60).fillna(0)
    utc = seconds - ahead.where(offset[0] != "-", -ahead)
    unread = parts[0].isna() & (pd.Series(texts, dtype=object) != "")
    found = pd.to_timedelta(utc.where(~unread), unit="s").dt.round("ms")
    return found.to_numpy("timedelta64[ns]"), bool(parts[4].notna().any()), bool(half.notna().any())


def _is_day_first(first: pd.Series, second: pd.Series, years: pd.Series, is_american: bool, path: Path | None) -> bool:
    """Which of two numbers is the day: the one above 12; else the one that puts the dates closer together."""
    if (first > 12).any() and (second > 12).any():
        raise DataError(f"{path}: some of its dates begin with the day and others with the month; export it again")
    if (first > 12).any() or (second > 12).any():
        return bool((first > 12).any())
    as_days, as_months = years * 372 + second * 31 + first, years * 372 + first * 31 + second
    spans = as_days.max() - as_days.min(), as_months.max() - as_months.min()
    return not is_american if spans[0] == spans[1] else bool(spans[0] < spans[1])


def _numbers(cells: pd.Series) -> pd.Series:
    """Numbers with a point or a comma; of both in one cell the last is the decimal one. Text is NaN."""
    numbers = pd.to_numeric(cells, errors="coerce")
    texts = cells[numbers.isna() & cells.str.contains(",", regex=False)]
    if len(texts):
        english = texts.str.rfind(".") > texts.str.rfind(",")
        texts = texts.str.replace(",", "", regex=False).where(english, texts.str.replace(".", "", regex=False))
        numbers[texts.index] = pd.to_numeric(texts.str.replace(",", ".", regex=False), errors="coerce")
    return numbers.astype("float64")


def _plain(cells: pd.Series) -> pd.Series:
    return cells.map({text: plain(text) for text in cells.unique()})


def _minutes(cells: pd.Series) -> pd.Series:
    """Lengths such as 1:30:00, 90 (minutes) or 5400000 (milliseconds) in minutes."""
    clock = cells.str.extract(r"^(\d+):(\d{2})(?::(\d{2}))?$").apply(pd.to_numeric)
    plain = _numbers(cells)
    plain = plain.where(plain < 3000, plain / 60_000)
    return plain.fillna(clock[0] * 60 + clock[1] + clock[2].fillna(0) / 60)


def _readings(
    table: Table, timed: pd.Series, path: Path, report: CleaningReport
) -> tuple[str | None, list[tuple[str, pd.Series]]]:
    """(unit, readings and readings taken by hand): rows whose event is another one are none, and are counted."""
    values = []
    units = {}
    for kind in (GLUCOSE, SCAN):
        for place in table.kinds.get(kind, ()):
            name, cells = table.names[place], table.cells[place]
            own, by_hand = _events(table, cells, timed, report)
            unit, numbers = _in_one_unit(table, str(name), cells.where(own | by_hand, ""), path, report)
            if unit:
                units[unit] = None
            values += [(kind, numbers.where(own)), (SCAN, numbers.where(by_hand & ~own))]
    if len(units) > 1:
        raise DataError(f"{path} holds readings in {' and in '.join(units)}; export it again in one unit")
    return next(iter(units), None), values


def _events(table: Table, cells: pd.Series, timed: pd.Series, report: CleaningReport) -> tuple[pd.Series, pd.Series]:
    """([rows] is a reading, [rows] is one taken by hand) of those that hold a value and a time."""
    held = (cells != "") & timed
    events = table.first(EVENT)
    if events is None:
        return held | ~timed, pd.Series(False, cells.index)
    events, vendor = _plain(events), table.vendor
    if vendor.readings:
        own, by_hand = events.str.contains(vendor.readings), events.str.contains(vendor.scans)
    else:  # calibrations and entries by hand are few, whatever they are called
        own, by_hand = events == events[held].value_counts().idxmax() if held.any() else held, ~timed & False
    report.add("values_that_are_no_reading", int((held & ~own & ~by_hand).sum()), "left out: calibrations and events")
    return held & own | ~timed, held & by_hand


def _in_one_unit(
    table: Table, name: str, cells: pd.Series, path: Path, report: CleaningReport
) -> tuple[str | None, pd.Series]:
    """(unit, readings in it): by the header, a column of units, or the vendor."""
    numbers = _numbers(cells)
    by_row = table.first(UNIT)
    stated = (
        pd.Series(None, cells.index, dtype=object) if by_row is None else by_row.map(glucose().unit_of).astype(object)
    )
    stated = stated[numbers.notna()].dropna()
    rows_say = stated.mode()[0] if len(stated) else None
    unit = glucose().unit_of(name) or rows_say or table.vendor.unit
    if unit is None:
        raise DataError(f"{path}: its header does not say whether readings are mg/dL or mmol/L; take data.source=csv")
    other = stated.index[stated != unit]
    if len(other):
        numbers[other] *= glucose().cleaning_factor(stated[other[0]], unit)
        report.add("readings_in_the_other_unit", len(other), f"converted to {unit}")
    words = cells[(cells != "") & numbers.isna()].replace({r"^[<≤].*": "low", r"^[>≥].*": "high"}, regex=True)
    found = glucose().read_words(f"glucose {unit}", words) if len(words) else None
    if found is not None:
        limits, worded, action = found
        numbers[words.index] = pd.to_numeric(limits, errors="coerce")
        report.add("sensor_words", int(worded.sum()), action)
        words = words[~worded]
    report.add("words_that_are_no_reading", len(words), "left out")
    return unit, numbers


def _doses(table: Table) -> list[tuple[str, pd.Series]]:
    """Insulin that is given at once, and shares of a pump's rate."""
    vendor, kinds = table.vendor, table.kinds
    values = []
    if BOLUS in kinds and not (vendor.name == "Glooko" and RATE in kinds):  # there it is what the rate came to
        subtype = table.first(SUBTYPE)
        lasts = pd.Series(False, table.cells.index) if subtype is None else _plain(subtype).str.contains(LONG_ACTING)
        for amounts in (_numbers(table.cells[place]) for place in kinds[BOLUS]):
            values += [(BOLUS, amounts.where(~lasts)), (INJECTED, amounts.where(lasts))]
    values += [(INJECTED, _numbers(table.cells[place])) for place in kinds.get(INJECTED, ())]
    if PERCENT in kinds:
        share, how = _numbers(table.first(PERCENT)), table.first(HOW)
        if vendor.name == "Nightscout":  # -20 is 80 %
            share = share + 100
        values.append((PERCENT, share if how is None else share.where(how.str.contains("ercent|rozent|%"))))
    return values


def _read_by_cgm_format(path: Path) -> Export | None:
    """What only the library cgm-format knows (BIG IDEAs, its own unified tables); None if it does not either."""
    from cgm_format import FormatParser

    try:
        text = FormatParser.decode_raw_data(path.read_bytes())
        known = FormatParser.detect_format(text)
        frame = FormatParser.parse_to_unified(text, known)
    except ValueError:  # its errors, and text that is none
        return None
    parts = []
    for column, kind in (
        ("glucose", GLUCOSE),
        ("insulin_fast", BOLUS),
        ("insulin_slow", INJECTED),
        ("carbs", CARBS),
    ):
        own = frame.filter(frame[column].is_not_null())
        times = pd.Series(own["datetime"].to_numpy().astype("datetime64[ns]"))
        parts.append(
            pd.DataFrame(
                {"time": times, "kind": kind, "value": own[column].to_numpy(), "minutes": np.nan, "device": ""}
            )
        )
    rows = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return Export(path, f"{known.value} (cgm-format)", rows, MG_DL)
