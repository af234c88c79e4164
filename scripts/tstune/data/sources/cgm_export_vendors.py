"""Whose export a table is, by its header, and what its columns are: the words of vendors in ten languages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    """Whose export it is."""

    name: str
    header: str  # found in the names of the columns, in small letters without accents and joined by ``|``
    # what a column is, asked before the words that all share; "" is left out
    columns: Mapping[str, str] = field(default_factory=dict)
    readings: str = ""  # the event that is a sensor reading; "" takes the one that most values have
    scans: str = "(?!)"  # the event that is a reading taken by hand
    unit: str | None = None  # of the readings, where no header says it
    day_first: bool | None = None  # dates begin with the day; None finds out


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
