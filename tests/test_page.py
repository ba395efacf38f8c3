"""The page of a validation: what it says, what it lets in, and how it stands in a real browser."""

import copy
import json
import re
import shutil
import subprocess
from contextlib import suppress
from html.parser import HTMLParser
from itertools import pairwise
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tunesmith.data.findings import CODES
from tunesmith.data.page import page

HOSTILE = "\"'><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!--"
EDGES = [0, 128, 256, 512, 1024, 2048]


def finding(code, row=None, field=None, message="is null"):
    level, _, fix = CODES[code]
    return {"code": code, "level": level, "row": row, "field": field, "message": message, "fix": fix}


def document(**changes):
    """What `tunesmith validate --json` writes about a set with errors and counted tokens."""
    findings = [
        finding("D003", 17, "conversations[2].value"),
        finding("D003", 4411, "conversations[0].value"),
        *(finding("D301", row, "conversations", f"the same as row {row - 1}") for row in range(100, 240)),
    ]
    return {
        "schema": "tunesmith/1", "command": "validate", "status": "findings", "data": "my chats.jsonl",
        "format": "sharegpt", "method": "sft", "evidence": ["column conversations holds lists of from/value"],
        "num_rows": 12345, "fit": False, "counts": {"D003": 2, "D301": 140}, "findings": findings,
        "statistics": {
            "turns": {"mean": 3.1, "max": 12},
            "characters": {
                "mean": 812.4, "p50": 640, "p95": 2210, "p99": 3804, "max": 12011,
                "histogram": {"edges": [0, 500, 1000, 1500], "counts": [400, 500, 100]},
            },
            "languages": [{"language": "en", "share": 0.97}, {"language": "de", "share": 0.03}],
            "languages_sample": 1000, "roles": {"user": 19220, "assistant": 19304},
        },
        "tokens": tokens(), "rewards": [],
        **changes,
    }  # fmt: skip


def tokens(**changes):
    return {
        "model": "org/model", "num_rows_read": 12345, "sampled": False, "mean": 258.1, "p50": 220, "p95": 543,
        "p99": 814, "max": 2001, "total": 3186244, "num_loss_tokens": 1370084, "loss_share": 0.43,
        "max_length": 1024, "num_cut": 5, "num_dropped": 1, "num_answer_tokens_lost": 930,
        "max_length_to_keep": {"95": 543, "99": 814, "100": 2001},
        "histogram": {"edges": EDGES, "counts": [2000, 6000, 4000, 340, 5]}, **changes,
    }  # fmt: skip


EXAMPLES = [
    {
        "row": 0, "why": "the first row", "text": "", "segments": [
            {"text": "<|im_start|>", "loss": False, "special": True}, {"text": "user\nHi", "loss": False},
            {"text": "Hel", "loss": True}, {"text": "lo", "loss": True},
            {"text": "<|im_end|>", "loss": True, "special": True},
            {"text": "<|im_end|>", "loss": True, "special": True},
        ],
    },
    {"row": 17, "why": "D003: conversations[2].value is null", "text": '{"conversations": [null]}'},
]  # fmt: skip


class Reader(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += "" if tag in ("a", "bdi", "code", "span") else " "

    def handle_data(self, data):
        self.text += data


def words(html):
    return " ".join(Reader(html[html.index("<body>") :]).text.split())


def everywhere(value, text):
    """`value` with `text` in place of every string in it, keys of the data's own included."""
    if isinstance(value, dict):
        return {key: everywhere(each, text) for key, each in value.items()}
    if isinstance(value, list):
        return [everywhere(each, text) for each in value]
    return text if isinstance(value, str) else value


def hostile_document(text):
    changed = everywhere(document(), text)
    for each, was in zip(changed["findings"], document()["findings"], strict=True):
        each["code"] = was["code"]
    changed["statistics"]["roles"] = {text: 3, "user": 4}
    changed["tokens"]["max_length_to_keep"] = {text: 512}
    changed["rewards"] = [{"name": text, "mean": 0.5}]
    return changed


# What it says


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            "Not fit to train on 2 errors in 12,345 rows stand in the way. 140 warnings are worth a look.",
        ),
        (
            {"fit": True, "counts": {"D301": 1, "D210": 2}, "findings": []},
            "Fit to train on No errors in 12,345 rows. 1 warning and 2 notes are worth a look.",
        ),
        (
            {"fit": True, "counts": {}, "findings": []},
            "Fit to train on Nothing was found in 12,345 rows.",
        ),
        (
            {"num_rows": 1, "counts": {"D003": 1}},
            "Not fit to train on 1 error in 1 row stands in the way.",
        ),
    ],
)
def test_the_verdict_comes_first_with_its_numbers(changes, said):
    assert words(page(document(**changes))).startswith(f"my chats.jsonl as sharegpt for sft {said}")


def test_it_says_how_the_data_were_understood():
    assert "Format sharegpt Because column conversations holds lists of from/value" in words(page(document()))


def test_a_code_comes_with_level_title_count_and_fix():
    said = words(page(document()))
    assert "D003 ×error field is null 2 fill it, or take the row out" in said
    assert "D301 !warning exact duplicates 140 keep one of each: --fix does" in said


def test_a_hundred_findings_of_a_code_are_shown_and_the_others_counted():
    counts = {"D003": 2, "D301": 2140}
    said = words(page(document(counts=counts)))
    assert said.count("the same as row") == 100
    assert "The first 100 of 2,140 are shown; there are 2,040 more." in said
    assert "rows 100, 101, 102 and more" in said


def test_the_share_of_rows_beyond_max_length_stands_at_its_line():
    html = page(document())
    assert "max_length 1,024 5 rows longer, 0.04%" in words(html)
    line = re.search(r'id="limit">\s*<line x1="([\d.]+)%"', html)
    assert float(line[1]) == 80  # the fourth of five bins ends there
    beyond = [attrs for tag, attrs in Reader(html).tags if tag == "rect" and attrs.get("class") == "beyond"]
    assert [each["x"] for each in beyond] == ["80.0%"]


def test_max_length_within_a_bin_parts_it():
    html = page(document(tokens=tokens(max_length=768, num_cut=160)))
    bars = [attrs for tag, attrs in Reader(html).tags if tag == "rect" and "x" in attrs]
    assert [(each["x"], each.get("class")) for each in bars[-3:]] == [
        ("60.0%", None),
        ("70.0%", "beyond"),
        ("80.0%", "beyond"),
    ]


def test_max_length_beyond_every_row_is_in_the_chart_too():
    html = page(document(tokens=tokens(max_length=8192, num_cut=0)))
    assert "max_length 8,192 no row is longer" in words(html)
    assert 'class="beyond"' not in html


def test_without_tokens_lengths_are_in_characters():
    said = words(page(document(tokens=None)))
    assert "Rows by their length in characters." in said
    assert "tunesmith validate 'my chats.jsonl' --method sft --model MODEL" in said


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "0%"), (1, "100%"), (0.43, "43%"), (0.021, "2.1%"), (0.0004, "0.04%"), (0.9996, "99.96%"),
     (1e-9, "below 0.001%"), (1 - 1e-9, "above 99.999%"), (None, "–"), (float("nan"), "–")],
)  # fmt: skip
def test_no_share_is_rounded_to_nothing_or_everything(share, said):
    html = page(document(tokens=tokens(loss_share=share)))
    assert f"<dt>of tokens carry loss</dt><dd>{said}</dd>" in html


def test_tokens_that_carry_loss_are_joined_and_special_ones_stay_apart():
    html = page(document(), EXAMPLES)
    assert '<span class="special">&lt;|im_start|&gt;</span>user\nHi<span class="loss">Hello</span>' in html
    assert html.count('<span class="loss special">&lt;|im_end|&gt;</span>') == 2


def test_rows_as_the_trainer_sees_them_come_first_below_the_legend():
    said = words(page(document(), EXAMPLES[::-1]))
    assert said.index("underlined carries loss") < said.index("the first row") < said.index("D003: conv")


def test_the_commands_to_run_next_can_be_pasted_and_overwrite_nothing():
    said = words(page(document()))
    given = "--method sft --model org/model --max-length 1024"
    assert f"tunesmith validate 'my chats.jsonl' {given} --fix clean.jsonl" in said
    assert "--findings findings.jsonl" in said  # 140 are more than the page shows
    assert f"tunesmith preview 'my chats.jsonl' {given}" in said
    assert "tunesmith train" not in said
    assert "--fix clean-2.jsonl" in words(page(document(data="data/clean.jsonl")))
    fit = words(page(document(fit=True, counts={}, findings=[])))
    assert "tunesmith train sft --model org/model --dataset 'my chats.jsonl' --max-length 1024" in fit
    assert "--fix" not in fit


def test_commands_suit_what_was_found():
    unread = words(page(document(counts={"D107": 1}, findings=[finding("D107")], tokens=None)))
    assert "tunesmith validate 'my chats.jsonl' --method sft --map SLOT=COLUMN" in unread
    assert "--fix" not in unread
    cut = words(page(document(counts={"D205": 5}, findings=[finding("D205", 3)], allowed=["D003"])))
    assert "--method sft --allow D003 --model org/model --max-length 2001" in cut
    assert "--fix" not in cut  # that a row is cut is nothing that a copy mends
    judged = [{**finding("D106", 4, "reward my.py:f", "can't read it"), "fix": "let the reward read it"}]
    of_reward = words(page(document(counts={"D106": 1}, findings=judged)))
    assert "--fix" not in of_reward  # nor what a reward did
    assert "let the reward read it" in of_reward
    fit = words(page(document(fit=True, counts={}, findings=[], method="dpo")))
    assert "tunesmith train dpo --model org/model --dataset 'my chats.jsonl' --max-length 1024" in fit


def test_errors_that_were_allowed_dont_stand_in_the_way():
    said = words(page(document(fit=True, allowed=["D003"])))
    assert "Fit to train on No errors in 12,345 rows but 2 that you allowed. 140 warnings are" in said
    assert "D003 ×error, allowed" in said


def test_a_pair_is_two_texts():
    pairs = tokens(num_rows_read=500, num_cut=5)
    balance = {"num_pairs": 500, "num_longer": 300, "num_shorter": 150}
    said = words(page(document(tokens=pairs, statistics={"balance": balance})))
    assert "5 of 12,345 texts are cut" in said
    assert "Texts by their length in tokens" in said
    assert "chosen 60% 300 rejected 30% 150 neither 10% 50" in said


def test_a_last_bar_that_holds_the_rest_is_said_to():
    histogram = {"edges": [0, 10, 20, 30, 900], "counts": [3, 4, 2, 1]}
    html = page(document(tokens=tokens(histogram=histogram, num_rows_read=10, max_length=None)))
    assert "the last bar holds all from 30 on" in words(html)
    assert "bins widen" not in html


# What it lets in


def test_nothing_of_the_data_becomes_markup():
    examples = [{"row": 1, "why": HOSTILE, "text": HOSTILE}]
    examples += [{"row": 2, "why": HOSTILE, "segments": [{"text": HOSTILE, "loss": True}]}]
    tags = Reader(page(hostile_document(HOSTILE), examples)).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "iframe", "object", "embed", "form"}
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]


def test_it_loads_nothing():
    tags = Reader(page(document(), EXAMPLES)).tags
    links = [value for _, attrs in tags for name, value in attrs.items() if name in ("src", "href")]
    assert all(link.startswith("#") for link in links)
    policies = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none'; style-src 'unsafe-inline';")


def test_characters_that_a_page_cant_hold_are_written_out():
    text = "a\x00b\x1b[31mc\x7f\x85\r\ud83d\u202egpj\u2066\uffff\ufdd0"
    html = page(hostile_document(text), [{"row": 1, "why": text, "text": text}])
    html.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]", html)
    assert r"a\x00b\x1b[31mc\x7f\x85\x0d\ud83d\u202egpj\u2066\uffff\ufdd0" in html


def test_text_of_other_scripts_stays_as_it_is():
    text = "שלום \u200fمرحبا 你好 👩‍👩‍👧"
    assert f"<bdi>{text}</bdi>" in page(document(findings=[finding("D003", 1, "a", text)]))


# Whatever is missing


@pytest.mark.parametrize("nothing", [None, {}, []])
@pytest.mark.parametrize("name", [*document(), "examples"])
def test_any_part_may_be_missing_or_empty(name, nothing):
    for without in (document(**{name: nothing}), {k: v for k, v in document().items() if k != name}):
        assert "</html>" in page(without, [{}])


@pytest.mark.parametrize("part", ["statistics", "tokens"])
def test_any_part_of_statistics_and_tokens_may_be_missing(part):
    for name in document()[part]:
        for nothing in (None, {}, []):
            changed = copy.deepcopy(document())
            changed[part][name] = nothing
            assert "</html>" in page(changed)
        del changed[part][name]
        assert "</html>" in page(changed)


@pytest.mark.parametrize(
    "histogram",
    [{"edges": [0, 1], "counts": []}, {"edges": [0, 0], "counts": [3]}, {"edges": [0, 1], "counts": [0]},
     {"edges": [0, float("nan")], "counts": [3]}, {"edges": 5, "counts": 3}, {"counts": [1]}],
)  # fmt: skip
def test_a_histogram_that_is_none_is_left_out(histogram):
    assert 'id="histogram"' not in page(document(statistics={}, tokens=tokens(histogram=histogram)))


@pytest.mark.parametrize("length", [0, 1, 7, 10**9])
def test_rows_that_are_all_of_one_length_make_a_chart(length):
    histogram = {"edges": [length, length + 1], "counts": [1]}
    assert 'id="histogram"' in page(document(tokens=tokens(histogram=histogram, num_rows_read=1)))


def test_a_code_of_a_newer_version_is_shown_by_what_the_document_says():
    newer = {"code": "D999", "level": "error", "row": 3, "field": "x", "message": "is odd", "fix": "mend it"}
    said = words(page(document(counts={"D999": 1}, findings=[newer])))
    assert "D999 ×error D999 1 mend it" in said
    assert "3 x is odd" in said


def test_a_full_report_is_below_300_kb():
    message = "答え<&> " * 60
    findings = [
        finding(code, row, f"messages[{row}].content", message) for code in CODES for row in range(1000)
    ]
    full = document(findings=findings, counts=dict.fromkeys(CODES, 1_000_000))
    examples = [{"row": row, "why": message, "text": message * 200} for row in range(100)]
    html = page(full, examples)
    assert len(html.encode()) < 300_000
    assert all(f'id="{code}"' in html for code in CODES)
    assert "more examples had no room here" in html


# In a browser


class Browser:
    """Chromium without a window, driven by chromedriver's plain HTTP."""

    FLAGS = (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
    )  # fmt: skip

    def __init__(self, folder):
        self.folder = folder
        # No proxy: the driver is on this machine.
        self.opener = build_opener(ProxyHandler({}))
        self.driver = subprocess.Popen(
            [shutil.which("chromedriver"), "--port=0"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        port = next(
            found[1] for line in self.driver.stdout if (found := re.search(r"started .*on port (\d+)", line))
        )
        self.url = f"http://127.0.0.1:{port}/session"
        options = {
            "binary": shutil.which("chromium"),
            "args": [*self.FLAGS, f"user-data-dir={folder / 'profile'}"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.url += "/" + self.call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, path, body):
        headers = {"Content-Type": "application/json"}
        request = Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with self.opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def show(self, html, *, width=1000, scheme="light", media="screen", fragment=""):
        path = self.folder / "report.html"
        path.write_text(html, encoding="utf-8")
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", {"media": media, "features": features})
        self.call("/url", {"url": "about:blank"})  # or a new fragment would load nothing
        self.call("/url", {"url": path.as_uri() + fragment})

    def run(self, script):
        return self.call("/execute/sync", {"script": script, "args": []})

    def devtools(self, command, params):
        return self.call("/goog/cdp/execute", {"cmd": command, "params": params})

    def complaints(self):
        return [each["message"] for each in self.call("/se/log", {"type": "browser"})]

    def close(self):
        with suppress(OSError):
            request = Request(self.url, method="DELETE")
            self.opener.open(request, timeout=30).close()
        self.driver.terminate()
        self.driver.wait(30)
        self.driver.stdout.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver here: apt install chromium chromium-driver")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def varied():
    """A document with everything on the page at once: long words, other scripts, lengths far apart."""
    long = "x" * 300
    found = [finding("D003", 123456789, f"messages[3].{long}", HOSTILE), finding("D210", None, None, long)]
    found += [finding("D007", 5, "a", "שלום, הסדר כאן"), *document()["findings"][2:]]
    counts = {"D003": 1, "D210": 1, "D007": 1, "D301": 2_140_000}
    return document(
        findings=found, counts=counts, data=f"a/{long}.jsonl", rewards=[{"name": long, "mean": 1.5}]
    )


ALL_OPEN = "document.querySelectorAll('details').forEach(each => each.open = true);"


def test_a_browser_shows_verdict_findings_and_max_length_and_complains_of_nothing(browser):
    browser.show(page(document(), EXAMPLES))
    seen = browser.run(
        """
        const box = name => document.querySelector(name).getBoundingClientRect();
        const line = box('#limit line'), plot = box('#histogram');
        return {
          verdict: document.querySelector('h1').innerText,
          found: document.querySelector('.found').innerText,
          bars: document.querySelectorAll('.bars rect').length,
          place: (line.left - plot.left) / plot.width, height: line.height,
          loaded: performance.getEntriesByType('resource').length,
        }"""
    )
    assert seen["verdict"] == "Not fit to train on"
    assert "4411" in seen["found"]
    assert seen["bars"] == 5
    assert seen["place"] == pytest.approx(0.8, abs=0.01)
    assert seen["height"] > 150
    assert seen["loaded"] == 0
    assert browser.complaints() == []


@pytest.mark.parametrize("guarded", [True, False], ids=["with its policy", "without its policy"])
def test_hostile_text_is_shown_and_does_not_run(browser, guarded):
    html = page(hostile_document(HOSTILE), [{"row": 1, "why": HOSTILE, "text": HOSTILE}])
    browser.show(html if guarded else re.sub("<meta http-equiv.*?>", "", html))
    title, text, scripts = browser.run(
        ALL_OPEN
        + "return [document.title, document.body.innerText, document.querySelectorAll('script, img').length]"
    )
    assert title.startswith("Not fit to train on")
    assert text.count(HOSTILE) > 100
    assert scripts == 0


@pytest.mark.parametrize("width", [320, 390, 700, 1000])
def test_no_width_makes_the_page_scroll_sideways(browser, width):
    browser.show(page(varied(), EXAMPLES), width=width)
    widest, outside = browser.run(
        ALL_OPEN
        + """
        const outside = [...document.querySelectorAll('body *')].filter(each => {
          const box = each.getBoundingClientRect(), hidden = each.closest('.unseen, thead');
          return !hidden && box.width && (box.right > innerWidth + 1 || box.left < -1);
        });
        return [document.documentElement.scrollWidth, outside.map(each => each.outerHTML.slice(0, 80))]"""
    )
    assert outside == []
    assert widest <= width


def test_labels_of_the_chart_do_not_overlap_on_a_phone(browser):
    histogram = {"edges": [each * 10_000 for each in range(9)], "counts": [9, 5, 3, 2, 1, 1, 1, 1]}
    crowded = tokens(histogram=histogram, p50=30_000, p95=35_000, p99=38_000, max_length=40_000)
    browser.show(page(document(tokens=crowded)), width=390)
    boxes = browser.run(
        """
        return [...document.querySelectorAll('#histogram text')].filter(each => each.checkVisibility())
          .map(each => each.getBoundingClientRect().toJSON())"""
    )
    rows = {}
    for box in boxes:
        rows.setdefault(round(box["y"]), []).append((box["left"], box["right"]))
    for row in rows.values():
        assert all(left[1] < right[0] for left, right in pairwise(sorted(row)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(browser, scheme):
    browser.show(page(varied(), EXAMPLES), scheme=scheme)
    faint, ground = browser.run(
        ALL_OPEN
        + """
        const parts = color => color.match(/[\\d.]+/g).map(Number);
        const light = color => parts(color).slice(0, 3).map(each => each / 255)
          .map(each => each <= .03928 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4)
          .reduce((sum, each, index) => sum + each * [.2126, .7152, .0722][index], 0);
        const ground = each => {
          const color = getComputedStyle(each).backgroundColor;
          return parts(color)[3] === 0 ? ground(each.parentElement) : color;
        };
        const written = each => !['title', 'desc'].includes(each.tagName)
          && [...each.childNodes].some(child => child.nodeType === 3 && child.data.trim());
        const contrast = each => {
          const style = getComputedStyle(each);
          const text = light(each instanceof SVGElement ? style.fill : style.color);
          const under = light(ground(each));
          return (Math.max(text, under) + .05) / (Math.min(text, under) + .05);
        };
        const faint = [...document.querySelectorAll('body *')]
          .filter(each => written(each) && contrast(each) < 4.5);
        return [faint.map(each => each.outerHTML), getComputedStyle(document.body).backgroundColor]"""
    )
    assert faint == []
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_tokens_that_carry_loss_are_told_apart_without_colour(browser):
    browser.show(page(document(), EXAMPLES))
    lines = browser.run(
        """
        const line = name => getComputedStyle(document.querySelector(name)).textDecorationLine;
        return [line('pre .loss'), line('pre .special:not(.loss)'), line('.legend .loss')]"""
    )
    assert lines == ["underline", "none", "underline"]


def test_a_link_to_a_code_opens_its_findings(browser):
    browser.show(page(document()))
    assert browser.run("return document.querySelector('#D301').parentElement.open") is False
    browser.show(page(document()), fragment="#D301")
    assert browser.run("return document.querySelector('#D301').parentElement.open") is True


def test_closed_findings_are_printed(browser):
    script = "return document.querySelector('#D301 table').checkVisibility({contentVisibilityAuto: true})"
    browser.show(page(document()))
    assert browser.run(script) is False
    browser.show(page(document()), media="print")
    assert browser.run(script) is True


@pytest.mark.parametrize("width", [390, 1000])
def test_a_screen_reader_finds_tables_headings_and_the_chart(browser, width):
    browser.show(page(document(), EXAMPLES), width=width)
    nodes = browser.devtools("Accessibility.getFullAXTree", {})["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    roles = [role for role, _ in named]
    assert roles.count("heading") >= 8
    assert {"main", "navigation", "banner", "contentinfo"} <= set(roles)
    assert {("columnheader", name) for name in ("code", "level", "what", "found", "what to do")} <= set(named)
    assert ("rowheader", "D003") in named
    charts = [name for role, name in named if role in ("image", "img")]
    assert any(name.startswith("Rows by their length in tokens") for name in charts)
