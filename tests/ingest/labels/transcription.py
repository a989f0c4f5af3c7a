"""Every task once more, as a slow loop over one subject's events, written from the tasks' descriptions alone.

Each function gives the subject's candidates as (prediction_time, value, extension, reason); reason None is a label.
Settings are those of the tasks.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter

HOUR, DAY, MICRO = datetime.timedelta(hours=1), datetime.timedelta(days=1), datetime.timedelta(microseconds=1)
ENDED = "stay over or subject dead by the prediction time"
OPEN = "no end of the stay is recorded"


def matches(code, patterns):
    return any(re.match(pattern, code) for pattern in patterns)


def is_one(code, name):
    return code == name or code.startswith(name + "//")


class Person:
    def __init__(self, events):
        self.events = events
        timed = [e for e in events if e["time"] is not None]
        births = [e["time"] for e in timed if is_one(e["code"], "MEDS_BIRTH")]
        deaths = [e["time"] for e in timed if is_one(e["code"], "MEDS_DEATH")]
        others = [
            e["time"] for e in timed if not is_one(e["code"], "MEDS_BIRTH") and not is_one(e["code"], "MEDS_DEATH")
        ]
        self.timed = timed
        self.birth = min(births, default=None)
        self.death = min(deaths, default=None)
        self.entry = min(others, default=None)
        self.last = max((e["time"] for e in timed), default=None)
        self.stays = self.find_stays()

    def dead_by(self, time):
        return self.death is not None and self.death <= time

    def find_stays(self):
        found = []
        pending = None
        seen = set()
        for place, event in enumerate(self.timed):
            opens = event["code"].startswith("HOSPITAL_ADMISSION")
            closes = event["code"].startswith("HOSPITAL_DISCHARGE")
            if not (opens or closes):
                continue
            dead = event["code"] == "HOSPITAL_DISCHARGE//DIED"
            visit = event["visit_id"]
            if visit is not None:
                if opens and visit not in seen:
                    seen.add(visit)
                    closing = None
                    for other in self.timed:
                        if (
                            other["visit_id"] == visit
                            and other["code"].startswith("HOSPITAL_DISCHARGE")
                            and other["time"] >= event["time"]
                        ):
                            closing = other
                            break
                    found.append(
                        {
                            "place": place,
                            "admission": event["time"],
                            "code": event["code"],
                            "discharge": closing and closing["time"],
                            "dead": bool(closing) and closing["code"] == "HOSPITAL_DISCHARGE//DIED",
                        }
                    )
            elif opens:
                if pending and pending["latest"] == event["time"]:
                    continue
                pending = {
                    "place": place,
                    "admission": event["time"],
                    "latest": event["time"],
                    "code": event["code"],
                    "discharge": None,
                    "dead": False,
                }
                found.append(pending)
            else:
                if pending:
                    pending["discharge"], pending["dead"] = event["time"], dead
                pending = None
        found.sort(key=lambda stay: (stay["admission"], stay["place"]))
        for number, stay in enumerate(found):
            later = [s for s in found[number + 1 :] if self.death is not None and s["admission"] <= self.death]
            if stay["discharge"] is not None:
                stay["died"] = stay["dead"] or self.dead_by(stay["discharge"])
                stay["end"] = min(t for t in (stay["discharge"], self.death) if t is not None)
            else:
                stay["died"] = self.death is not None and stay["admission"] <= self.death and not later
                stay["end"] = self.death if stay["died"] else None
        return found

    def visits(self, gap_hours, keep):
        """The visits that have an event for which `keep` is true, by start."""
        groups, session, before = {}, 0, None
        for place, event in enumerate(self.timed):
            if event["visit_id"] is not None:
                key = ("id", event["visit_id"])
            else:
                if before is not None and event["time"] - before > gap_hours * HOUR:
                    session += 1
                before = event["time"]
                key = ("session", session)
            groups.setdefault(key, {"events": [], "place": place, "visit_id": event["visit_id"]})["events"].append(
                event
            )
        for group in groups.values():
            group["start"], group["end"] = group["events"][0]["time"], group["events"][-1]["time"]
        kept = [group for group in groups.values() if any(keep(event) for event in group["events"])]
        return sorted(kept, key=lambda group: (group["start"], group["place"]))


def once(rows):
    """Of labels at one prediction time only the first stays."""
    taken, result = set(), []
    for time, value, more, reason in sorted(
        rows, key=lambda row: (row[0] is not None, row[0] or datetime.datetime.min)
    ):
        if reason is None and time in taken:
            reason = "same prediction time as another candidate"
        if reason is None:
            taken.add(time)
        result.append((time, value, more, reason))
    return result


def first(*reasons):
    return next((reason for reason, holds in reasons if holds), None)


def last_moment(time):
    return time.replace(hour=23, minute=59, second=59, microsecond=999_999)


def lost(person, s, time, outcome, horizon):
    """(whether follow-up excludes it, whether it counts as unobserved)."""
    end = datetime.datetime.fromisoformat(s.data_end) if s.data_end else None
    until = end or (datetime.datetime.max if person.death is not None else person.last)
    uncovered = time + horizon > until
    unseen = uncovered and not outcome and not person.dead_by(time + horizon)
    return {"keep": False, "exclude": unseen, "complete": uncovered}[s.follow_up], unseen


def discharges(person, end_of_day=False, keep_overlaps=False):
    """(stay, prediction time, reasons known then, reasons known later) of each stay."""
    for stay in person.stays:
        if stay["discharge"] is None:
            yield stay, None, [("no discharge is recorded", True)], []
            continue
        time = last_moment(stay["discharge"]) if end_of_day else stay["discharge"]
        again = any(stay["discharge"] < other["admission"] <= time for other in person.stays)
        inside = any(o["end"] is not None and o["admission"] <= time < o["end"] for o in person.stays)
        known = [
            ("died in hospital", stay["died"]),
            ("dead by the prediction time", person.dead_by(time)),
            ("admitted again by the prediction time", again),
        ]
        yield stay, time, known, [("still in another stay", inside and not keep_overlaps)]


def readmission_30d(person, s):
    for stay, time, known, later in discharges(person, s.end_of_day, s.keep_overlaps):
        if time is None:
            yield None, None, (), known[0][0]
            continue
        horizon = s.horizon_days * DAY
        following = [o for o in person.stays if o["admission"] > time]
        following = [o for o in following if o["admission"] == min(f["admission"] for f in following)]
        outcome = any(not matches(o["code"], s.planned) for o in following)
        outcome = outcome and following[0]["admission"] <= time + horizon
        moved = any(
            stay["discharge"] < o["admission"] <= stay["discharge"] + s.transfer_hours * HOUR for o in person.stays
        )
        gone, _ = lost(person, s, time, outcome, horizon)
        reasons = [*known, *later, ("transferred", moved), ("follow-up ends before the horizon", gone)]
        yield time, outcome, (), first(*reasons)


def in_stays(person, s):
    for stay in person.stays:
        time = last_moment(stay["admission"]) if getattr(s, "end_of_day", False) else stay["admission"] + s.hours * HOUR
        over = (stay["end"] is not None and stay["end"] <= time) or person.dead_by(time)
        yield stay, time, [(ENDED, over)]


def in_hospital_mortality(person, s):
    for stay, time, known in in_stays(person, s):
        yield time, stay["died"], (), first(*known, (OPEN, stay["end"] is None))


def long_length_of_stay(person, s):
    for stay, time, known in in_stays(person, s):
        value = stay["end"] is not None and stay["end"] - stay["admission"] > s.days * DAY
        yield time, value, (), first(*known, (OPEN, stay["end"] is None))


def length_of_stay(person, s):
    for stay, time, known in in_stays(person, s):
        since = time if s.remaining else stay["admission"]
        value = None if stay["end"] is None else (stay["end"] - since) / DAY
        yield time, value, (), first(*known, (OPEN, stay["end"] is None))


def icu_transfer(person, s):
    for stay, time, known in in_stays(person, s):
        began = [e["time"] for e in person.timed if e["code"].startswith("ICU_ADMISSION")]
        left = [e["time"] for e in person.timed if e["code"].startswith("ICU_DISCHARGE")]
        since = max((t for t in began if t <= time), default=None)
        out = max((t for t in left if t <= time), default=None)
        inside = since is not None and (since >= stay["admission"] or out is None or out < since)
        value = stay["end"] is not None and any(time < t <= stay["end"] for t in began)
        reason = first(*known, ("intensive care by the prediction time", inside), (OPEN, stay["end"] is None))
        yield time, value, (), reason


def asked(person, s):
    """(prediction time, reasons known then, reasons known later) by the setting `predict`."""
    if s.predict == "discharge":
        for _, time, known, later in discharges(person):
            yield time, known, later
    elif person.entry is not None:
        end = datetime.datetime.fromisoformat(s.data_end) if s.data_end else person.last
        time = person.entry + s.every_days * DAY
        while time <= end and not person.dead_by(time):
            yield time, [], []
            time += s.every_days * DAY


def eligibility(person, s, time):
    rows = [e for e in person.events if matches(e["code"], s.codes)]
    has = any(e["time"] is None or e["time"] <= time for e in rows)
    short = person.entry is None or time - person.entry < s.min_history_days * DAY
    old = person.birth is not None and time - person.birth >= s.min_age_years * 365.25 * DAY
    following = [e["time"] for e in rows if e["time"] is not None and e["time"] > time]
    return min(following, default=None), [
        ("on record by the prediction time", has),
        ("history too short", short),
        ("below the least age, or age unknown", s.min_age_years > 0 and not old),
    ]


def new_diagnosis(person, s):
    for time, known, later in asked(person, s):
        if time is None:
            yield None, None, (), known[0][0]
            continue
        event, more = eligibility(person, s, time)
        outcome = event is not None and event <= time + s.horizon_days * DAY
        gone, _ = lost(person, s, time, outcome, s.horizon_days * DAY)
        reason = first(*known, *more, *later, ("follow-up ends before the horizon", gone))
        yield time, outcome, (), reason


def time_to_event(person, s):
    for time, known, later in asked(person, s):
        if time is None:
            yield None, None, (), known[0][0]
            continue
        event, more = eligibility(person, s, time)
        last = datetime.datetime.fromisoformat(s.data_end) if s.data_end else person.last
        limit = time + (s.horizon_days or 100_000) * DAY
        if event is not None and event <= min(last, limit):
            until, censored, by_death = event, False, False
        else:
            dies = person.death is not None and person.death <= last
            until = min(person.death if dies else last, limit)
            censored, by_death = True, person.death is not None and until == person.death
        reason = first(*known, *more, *later, ("no follow-up", until <= time))
        yield time, not censored, ((until - time) / DAY, censored, by_death), reason


def number(event):
    value = event["numeric_value"]
    return value if value is not None and math.isfinite(value) else None


def results(person, s):
    rows = [e for e in person.timed if matches(e["code"], s.labs)]
    numeric = [e for e in rows if number(e) is not None]
    if s.at == "admission":
        for _, time, known in in_stays(person, s):
            at = min((e["time"] for e in numeric if time < e["time"] <= time + s.horizon_hours * HOUR), default=None)
            values = [number(e) for e in numeric if e["time"] == at]
            yield time, values, first(*known, ("no result within the horizon", at is None))
        return
    for at in sorted({e["time"] for e in rows}):
        time = at - s.lead_minutes * datetime.timedelta(minutes=1)
        values = [number(e) for e in numeric if e["time"] == at]
        yield (
            time,
            values,
            first(
                ("no earlier event", person.entry is None or person.entry > time),
                ("dead by the prediction time", person.dead_by(time)),
                ("no number", not values),
                ("another result since the prediction time", any(time < e["time"] < at for e in numeric)),
            ),
        )


def abnormal_lab(person, s):
    for time, values, reason in results(person, s):
        low, high = s.low, s.high
        value = any((low is not None and v < low) or (high is not None and v > high) for v in values)
        yield time, value, (), reason


def lab_value(person, s):
    for time, values, reason in results(person, s):
        yield time, sum(values) / len(values) if values else None, (), reason


def visit_rows(person, s, keep, reason):
    visits = person.visits(s.gap_hours, keep)
    for place, visit in enumerate(visits):
        time = visit["end"]
        after = next((other for other in visits if other["start"] > time), None)
        late = after is not None and s.horizon_days > 0 and after["start"] > time + s.horizon_days * DAY
        told = first(("dead by the prediction time", person.dead_by(time)), (reason, after is None or late))
        yield place, visit, after, time, told


def code_names(visit, s, patterns):
    names = set()
    for event in visit["events"]:
        if matches(event["code"], patterns):
            if s.extract:
                found = re.search(s.extract, event["code"])
                names |= {found.group(1)} if found else set()
            else:
                names.add(event["code"])
    return names


def vocabulary(people, s):
    counts = Counter()
    for person in people:
        for visit in person.visits(s.gap_hours, lambda event: True):
            counts.update(code_names(visit, s, s.codes or ("DIAGNOSIS//",)))
    return [name for _, name in sorted((-n, name) for name, n in counts.items())][: s.num_codes]


def next_visit_codes(person, s, known):
    patterns = s.codes or ("DIAGNOSIS//",)
    keep = lambda event: bool(code_names({"events": [event]}, s, patterns))  # noqa: E731
    for place, visit, after, time, reason in visit_rows(person, s, keep, "no later visit"):
        names = sorted(code_names(after, s, patterns) & set(known)) if after else []
        yield time, len(names), (names, place, visit["visit_id"]), reason


def egfr(person, event):
    sexes = {e["code"] for e in person.events if e["code"] in ("GENDER//F", "GENDER//M")}
    value = number(event)
    if len(sexes) != 1 or person.birth is None or value is None or value <= 0:
        return None
    age = (event["time"] - person.birth) / (365.25 * DAY)
    if age < 18:
        return None
    kappa, alpha, factor = (0.7, -0.241, 1.012) if "GENDER//F" in sexes else (0.9, -0.302, 1.0)
    ratio = value / kappa
    return 142 * min(ratio, 1) ** alpha * max(ratio, 1) ** -1.2 * 0.9938**age * factor


def disease_stage(person, s):
    def staged(event):
        if s.stage_codes:
            found = [place for place, pattern in enumerate(s.stage_codes) if matches(event["code"], (pattern,))]
            return max(found, default=None)
        if not matches(event["code"], s.labs):
            return None
        return egfr(person, event) if s.transform else number(event)

    def stage(visit):
        values = [staged(event) for event in visit["events"] if staged(event) is not None]
        if s.stage_codes:
            return max(values)
        value = {"last": values[-1], "lowest": min(values), "highest": max(values), "mean": sum(values) / len(values)}
        value = value[s.summary]
        return sum(value < cut if s.lower_is_worse else value >= cut for cut in s.thresholds)

    keep = lambda event: staged(event) is not None  # noqa: E731
    for place, visit, after, time, reason in visit_rows(person, s, keep, "no later visit with a stage"):
        yield time, stage(after) if after else None, (place, visit["visit_id"], stage(visit)), reason
