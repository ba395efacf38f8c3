"""Secrets: real-shaped ones of every kind are found and masked, examples are not; the screens miss none."""

import base64
import json
import random
import string
import subprocess
import sys
import textwrap

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.checks.secrets import EMAIL_SCREEN, SCREEN, find_secrets

ALNUM = string.ascii_letters + string.digits
WORD = ALNUM + "-_"
HEX = string.hexdigits[:16]
BASE32 = string.ascii_uppercase + "234567"
UPPER = string.ascii_uppercase + string.digits


def as_base64(value: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def web_token(body: str) -> str:
    # The dot that joins the parts stands alone, so that no scanner takes this file for a leak.
    claims = {"sub": "auth0|81723", "exp": 1893456000}
    return ".".join([as_base64({"alg": "HS256", "typ": "JWT"}), as_base64(claims), body])


def pem(label: str, body: str) -> str:
    lines = "\n".join(textwrap.wrap(body, 64))
    return f"-----BEGIN {label}KEY-----\n{lines}\n-----END {label}KEY-----"


# Kind, alphabet, length, and how a secret is built from random characters; `{}` in the prose is the secret.
# Nothing here is a secret as it stands: prefixes and bodies meet only when the tests run.
KEYS = [
    ("OpenAI API key", WORD, 156, lambda r: "sk-" + "proj-" + r, "{}"),
    ("OpenAI API key", WORD, 156, lambda r: "sk-" + "svcacct-" + r, "{}"),
    ("OpenAI API key", ALNUM, 40, lambda r: "sk-" + r[:20] + "T3Blbk" + "FJ" + r[20:], "{}"),
    ("OpenAI-style API key", ALNUM, 48, lambda r: "sk-" + r, "{}"),
    ("OpenAI-style API key", HEX, 32, lambda r: "sk-" + r, "{}"),
    ("OpenRouter API key", HEX, 64, lambda r: "sk-" + "or-v1-" + r, "{}"),
    ("Anthropic API key", WORD, 93, lambda r: "sk-" + "ant-api03-" + r + "AA", "{}"),
    ("Hugging Face token", string.ascii_letters, 34, lambda r: "hf" + "_" + r, "{}"),
    *(("GitHub token", ALNUM, 36, lambda r, x=x: f"gh{x}" + "_" + r, "{}") for x in "pousr"),
    ("GitHub token", ALNUM, 81, lambda r: "github" + "_pat_" + r[:22] + "_" + r[22:], "{}"),
    ("GitLab token", WORD, 20, lambda r: "gl" + "pat-" + r, "{}"),
    ("AWS access key id", BASE32, 16, lambda r: "AK" + "IA" + r, "{}"),
    ("AWS access key id", BASE32, 15, lambda r: "AS" + "IA" + r[:8] + "7" + r[8:], "{}"),
    ("AWS secret access key", ALNUM + "/+", 40, lambda r: r, "aws_secret_access_key = {}"),
    ("AWS secret access key", ALNUM + "/+", 40, lambda r: r, 'os.environ["AWS_SECRET_ACCESS_KEY"] = "{}"'),
    ("Google API key", WORD, 35, lambda r: "AI" + "za" + r, "{}"),
    ("Google OAuth client secret", WORD, 28, lambda r: "GOC" + "SPX-" + r, "{}"),
    ("Slack token", ALNUM, 24, lambda r: "xo" + "xb-2718281828459-2718281828460-" + r, "{}"),
    ("Slack token", HEX, 32, lambda r: "xo" + "xp-271828182845-271828182846-271828182847-" + r, "{}"),
    ("Slack token", HEX, 64, lambda r: "xa" + "pp-1-A02TV9K4QXZ-2718281828459-" + r, "{}"),
    ("Slack webhook", ALNUM, 24, lambda r: "hooks.slack" + ".com/services/T02TV9K4Q/B07QWM2XK/" + r, "{}"),
    ("Stripe key", ALNUM, 24, lambda r: "sk" + "_live_" + r, "{}"),
    ("Stripe key", ALNUM, 99, lambda r: "rk" + "_live_" + r, "{}"),
    ("Stripe test key", ALNUM, 24, lambda r: "sk" + "_test_" + r, "{}"),
    ("SendGrid API key", WORD, 65, lambda r: "SG" + "." + r[:22] + "." + r[22:], "{}"),
    ("Twilio API key", HEX, 32, lambda r: "SK" + r, "from twilio.rest import Client; key = '{}'"),
    ("Twilio account SID", HEX, 32, lambda r: "AC" + r, "the SID is {} (see Twilio's console)"),
    ("Twilio auth token", HEX, 32, lambda r: r, "TWILIO_AUTH_TOKEN={}"),
    ("npm token", ALNUM, 36, lambda r: "npm" + "_" + r, "{}"),
    ("PyPI token", WORD, 120, lambda r: "pypi-" + "AgEIcHlwaS5vcmc" + r, "{}"),
    ("Discord bot token", WORD, 56, lambda r: f"M{r[:23]}.{r[23:29]}.{r[29:]}q7", "import discord; {}"),
    ("Discord webhook", WORD, 68, lambda r: "discord" + ".com/api/webhooks/271828182845904523/" + r, "{}"),
    ("Telegram bot token", WORD, 33, lambda r: "271828182:" + "AA" + r, "{}"),
    ("Azure storage key", ALNUM + "+/", 86, lambda r: "Account" + "Key=" + r + "==", "Name=x;{};Suffix=y"),
    ("DigitalOcean token", HEX, 64, lambda r: "dop" + "_v1_" + r, "{}"),
    ("Databricks token", HEX, 32, lambda r: "da" + "pi" + r, "{}"),
    ("Replicate token", ALNUM, 37, lambda r: "r8" + "_" + r, "{}"),
    ("Groq API key", ALNUM, 52, lambda r: "gsk" + "_" + r, "{}"),
    ("xAI API key", ALNUM, 80, lambda r: "xai" + "-" + r, "{}"),
    ("W&B API key", HEX, 40, lambda r: r, "WANDB_API_KEY={}"),
    ("W&B API key", HEX, 40, lambda r: r, 'wandb.login(key="{}")'),
    ("W&B API key", HEX, 40, lambda r: r, "wandb login {}"),
    ("W&B API key", ALNUM, 77, lambda r: "wandb" + "_v1_" + r, "{}"),
    ("JSON web token", WORD, 43, web_token, "Authorization: Bearer {}"),
    ("bearer token", ALNUM, 40, lambda r: r, 'curl -H "Authorization: Bearer {}"'),
    ("password in a URL", ALNUM, 11, lambda r: r + "7b", "postgres://svc_shop:{}@db.shopwell.io:5432/shop"),
    ("password in a URL", ALNUM, 14, lambda r: r + "8Jq", "redis://:{}@cache:6379/0"),
    ("password in a URL", ALNUM, 9, lambda r: r + "%2F4z", "https://deploy:{}@git.shopwell.io/shop.git"),
]  # fmt: skip
PEMS = ["RSA PRIVATE ", "EC PRIVATE ", "OPENSSH PRIVATE ", "PRIVATE ", "ENCRYPTED PRIVATE ", "DSA PRIVATE "]


def drawn(seed: int, alphabet: str, length: int) -> str:
    """Random characters; a last one that is neither - nor _, which would end a key in prose early."""
    rng = random.Random(f"{seed} {alphabet} {length}")
    return "".join(rng.choice(alphabet) for _ in range(length - 1)) + rng.choice(alphabet.rstrip("-_+/"))


def most_shown(random_part: str, masked: str) -> int:
    """The length of the longest piece of the random part that the mask shows."""
    pieces = (random_part[i:j] for i in range(len(random_part)) for j in range(i + 1, len(random_part) + 1))
    return max((len(piece) for piece in pieces if piece in masked), default=0)


def screened(text: str, screen: str) -> bool:
    return bool(pl.Series([text]).str.contains(screen)[0])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "alphabet", "length", "build", "place"), KEYS, ids=[key[0] for key in KEYS])
def test_a_key_in_prose_is_found_named_and_masked(kind, alphabet, length, build, place, seed):
    random_part = drawn(seed, alphabet, length)
    secret = build(random_part)
    text = f"Then I set it up as follows.\n{place.format(secret)}\nAfter that it worked, thanks!"
    found = find_secrets(text)
    assert [(each.code, each.kind) for each in found] == [("D401", kind)]
    assert secret not in found[0].masked
    assert most_shown(random_part, found[0].masked) <= 8
    assert screened(text, SCREEN)


@pytest.mark.parametrize(
    "wrap", ["{}", "({}).", '"{}"', "`{}`,", "key={}", "<b>{}</b>", "line one\\n{}\\nline two"]
)
def test_a_key_is_found_whatever_stands_around_it(wrap):
    for build in (lambda r: "hf" + "_" + r, lambda r: "ghp" + "_" + r + "ab", lambda r: "sk-" + r):
        assert len(find_secrets(wrap.format(build(drawn(5, ALNUM, 34))))) == 1


@pytest.mark.parametrize("label", [*PEMS, "PGP PRIVATE "])
def test_a_private_key_is_found_and_nothing_of_it_is_shown(label):
    body = drawn(1, ALNUM + "+/", 640)
    text = f"Here is the key:\n{pem(label, body)}\nDon't lose it."
    if label.startswith("PGP"):
        text = text.replace("KEY-----", "KEY BLOCK-----")
    for each in (text, text.replace("\n", "\\n")):
        (found,) = find_secrets(each)
        assert (found.code, found.kind) == ("D402", "private key")
        assert most_shown(body, found.masked) <= 8
        assert screened(each, SCREEN)


def test_the_shortest_private_key_is_found():
    assert len(find_secrets(pem("PRIVATE ", drawn(2, ALNUM, 64)))) == 1


X, DIGITS = "x" * 48, "1234567890" * 5
# What people write where a key belongs.
PLACEHOLDERS = [
    "sk-" + X, "sk-" + DIGITS[:48], "sk-" + "proj-" + X, "hf_" + X[:34], "ghp_" + X[:36],
    "AKIA" + "IOSFODNN7EXAMPLE", "AKIA" + "X" * 16, "sk-" + "abcdefghijklmnopqrstuvwxyz0123456789ABCD",
    "sk-" + "abc123" * 8, "sk-" + "a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0u1v2w3x4",
    "hf_" + "YourTokenGoesHereReplaceItWithYours", "sk-" + "ant-api03-" + "A" * 95,
    "sk-" + "ant-api03-your-key-here" + "-" * 80, "sk-your-api-key-here", "sk-...",
    "AIza" + "SyYourApiKeyGoesHereYourApiKeyGoesHere"[:35], "xoxb-your-token",
    "xoxb-" + "x" * 12 + "-" + "x" * 24, "hooks.slack.com/services/T00000000/B00000000/" + "X" * 24,
    "sk_test_" + "4eC39HqLyj" + "WDarjtT1zdp7dc", "SG." + "x" * 22 + "." + "y" * 43, "YOUR_API_KEY",
    "<token>", "api_key = os.environ['OPENAI_API_KEY']",
    "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
    "WANDB_API_KEY=" + "0" * 40, "Authorization: Bearer YOUR_ACCESS_TOKEN_GOES_HERE_1",
    "Authorization: Bearer ${user.token}", "Authorization: `Bearer ${user.user.token}`,",
    "the bearer of bad news", "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6",
    "Standard Bearer trans-continental-railways-and-steamboats",
]  # fmt: skip
# Passwords that are none, and URLs that lead nowhere.
URLS = [
    "postgres://user:password@localhost:5432/db", "https://user:pass@example.com",
    "mysql://root:root@127.0.0.1/db", "postgres://${USER}:${PASS}@db.shopwell.io/x",
    "https://<user>:<password>@git.shopwell.io", "redis://:Zk4vQ9pTx1@localhost:6379",
    "https://me:Zk4vQ9pTx1@www.example.org/", "amqp://guest:guest@rabbit.io/",
    "cvs://:pserver:anoncvs@sources.redhat.com:/cvs/src", "http://db:5432/a@b.io",
    "https://a.io/?q=1:2@c.io",
]  # fmt: skip
# Keys of which only the frame is there.
FRAMES = [
    "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----", "a BEGIN PRIVATE KEY line",
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0...\n-----END PRIVATE KEY-----",
    "-----BEGIN PUBLIC KEY-----\n" + drawn(3, ALNUM, 640) + "\n-----END PUBLIC KEY-----",
]  # fmt: skip
# Ids, data, and words.
IDS = [
    "commit " + drawn(4, HEX, 40), "sha256:" + drawn(5, HEX, 64), "id 123e4567-e89b-12d3-a456-426614174000",
    "data:image/png;base64," + drawn(6, ALNUM + "+/", 4000), "SK" + drawn(7, HEX, 32),
    "AC" + drawn(8, HEX, 32), "see /blog/risk-assessment-and-management-of-large-scale-projects-2024",
    "dapibus ut pellentesque", "ASIA" + "PACIFICREGIONALX",
    drawn(9, ALNUM, 40) + "sk-" + drawn(10, ALNUM, 48), "Discord and Twilio and wandb",
]  # fmt: skip
NO_ADDRESS = [
    "user@example.com", "a.b@mail.example.org", "x@shop.example", "test@test.com", "name@company.com",
    "you@yourdomain.com", "info@yourcompany.io", "alice@email.com", "john.doe@gmail.com",
    "johndoe@acmecorp.com", "noreply@shopwell.io", "no-reply@shopwell.io", "do-not-reply@shopwell.io",
    "git@github.com:org/repo.git", "ssh://git@gitlab.com/org/repo", "deploy@web1.shopwell.io:/var/www",
    "user@localhost", "root@server.local", "icon@2x.png", "logo@3x.md", "@app.route('/')\n@functools.wraps",
    "npm i @scope/pkg@1.2.3 lodash@4.17.21", "@types/node@20.1.0-rc.io", "W@x.mT", "q = W@x.to(device)",
    "h = model@layers.io[0]", "@handle and @other.one", "DotNetCoreCLI@2", "user.name@domain.com",
    "foo@bar.com", "500 shares @ $100", "[a-zA-Z]+@[a-z]+\\.[a-z]{2,}", "https://user:pass@git.shopwell.io",
    "12345+octo@users.noreply.github.com", "20130813065417.GV23@mx.shopwell.io", "first.last@shopwell.io",
    "file@archive.tar", "jane@smith.doesnotexist",
]  # fmt: skip
ADDRESSES = [
    "m.okonkwo@shopwell.io", "Tilda.Svens-son@uni-lund.se", "h_ito99@yahoo.co.jp", "r2d7@gmail.com",
    "olga@mail.ru", "kf+lists@posteo.de", "B.Ortiz@HOTMAIL.COM", "sales@shopwell.com", "me@ottokar.dev",
    "liu@163.com",
]  # fmt: skip


@pytest.mark.parametrize("text", [*PLACEHOLDERS, *URLS, *FRAMES, *IDS, *NO_ADDRESS])
def test_examples_ids_and_code_are_no_findings(text):
    assert find_secrets(f"For instance: {text}") == []
    assert find_secrets(text) == []


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("wrap", ["write to {}.", "<{}>", "mailto:{}?subject=x", "'{}',", "mail {}\nor call"])
def test_an_address_of_somebody_is_found_and_masked(address, wrap):
    text = wrap.format(address)
    (found,) = find_secrets(text)
    assert (found.code, found.kind) == ("D403", "e-mail address")
    assert address.partition("@")[0] not in found.masked
    assert most_shown(address.rpartition(".")[0], found.masked) <= 8
    assert screened(text, EMAIL_SCREEN)


def test_each_secret_is_named_once_in_order_of_place():
    first, second = (f"hf_{drawn(seed, string.ascii_letters, 34)}" for seed in (1, 2))
    text = f"{second} then m.okonkwo@shopwell.io, {first}, again {second} and M.Okonkwo@shopwell.io"
    found = find_secrets(text)
    assert [each.code for each in found] == ["D401", "D403", "D401"]
    assert [each.masked[-20:-16] for each in found if each.code == "D401"] == [second[-4:], first[-4:]]


def test_a_key_inside_something_larger_is_named_once_by_what_it_is():
    token = "ghp" + "_" + drawn(1, ALNUM, 36)
    for text in (f"https://x-access-token:{token}@github.com/o/r", f"Authorization: Bearer {token}"):
        assert [each.kind for each in find_secrets(text)] == ["GitHub token"]


def test_it_shows_what_it_says_it_shows():
    key = "sk-" + "proj-" + drawn(1, WORD, 156)
    assert find_secrets(key)[0].masked == f"sk-proj-...{key[-4:]} (164 characters)"


STARTS = [
    "sk-", "proj-", "ant-api03-", "hf_", "ghp_", "github_pat_", "glpat-", "AKIA", "ASIA", "AIza", "xoxb-",
    "eyJ", "xapp-1-", "SG.", "SK", "AC", "twilio", "npm_", "discord", "DISCORD", ":AA", "AccountKey=", "==",
    "dop_v1_", "dapi", "r8_", "gsk_", "xai-", "wandb login ", "WANDB_API_KEY=", "Bearer ", "://", ":", "@",
    ".", "-", "/", "-----BEGIN ", "RSA ", "PRIVATE KEY-----", "secret_access_key = ", "a", "b.io", ".com",
    "\\n", " ", "\n",
]  # fmt: skip
# Text that is made of what patterns look for, so that interesting cases are hit and not only arbitrary ones.
PIECES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(STARTS),
    st.builds(
        drawn, st.integers(0, 50), st.sampled_from([ALNUM, WORD, HEX, BASE32, UPPER]), st.integers(1, 100)
    ),
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map("".join)
PLANTED = st.builds(
    lambda before, key, seed, after: before + key[4].format(key[3](drawn(seed, key[1], key[2]))) + after,
    st.text(max_size=20), st.sampled_from(KEYS), st.integers(0, 1000), st.text(max_size=20),
)  # fmt: skip


@settings(max_examples=1500, deadline=None, derandomize=True, database=None)
@given(st.one_of(TEXTS, PLANTED))
def test_the_screens_match_wherever_something_is_found(text):
    codes = {each.code for each in find_secrets(text)}
    assert not codes & {"D401", "D402"} or screened(text, SCREEN)
    assert "D403" not in codes or screened(text, EMAIL_SCREEN)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.text(st.characters()), st.text(st.characters(categories=["Cs", "Lu", "Po"]))))
def test_any_string_is_read_without_an_error(text):
    assert isinstance(find_secrets(text), list)


def test_prose_about_keys_is_not_even_screened():
    prose = [
        "Ask a task-force: is risk-averse, desk-bound work worth it? We discovered Twitter, and a bear.",
        "See https://docs.python.org/3/library/re.html#module-re and http://localhost:8080/a?b=c for more.",
        "Use `sk-...` as the key. The API began in ASIA; pip install npm_tools; wandb is a tracker.",
        "|---|---|\n|:--|--:|\n" * 50,
        "commit " + drawn(4, HEX, 40),
    ]
    assert not pl.Series(prose).str.contains(SCREEN).any()
    assert not pl.Series(prose).str.contains(EMAIL_SCREEN).any()


REPEATED = [
    "a", "@", "a@", "a.", "a@a.", "eyJ", "eyJ.", "eyJaaaaaaaaaa.", "sk-", "sk-proj-", "sk-ant-api03-", "://",
    "://a:b", "://a:b@", "a://", "Bearer ", "BEGIN ", "-----BEGIN PRIVATE KEY-----", "xoxb-", "xoxb-1-",
    "wandb login ", "1", ":", "discord M" + "a" * 24 + ".aaaaaa.", "twilio SK" + "0a" * 16, "gh", "\\n", " ",
    "AKIA", "SG.", "hf_", "-", "\ud800",
]  # fmt: skip


def test_no_text_takes_long():
    # Each megabyte takes tenths of a second; patterns that backtrack would need hours for the first of them.
    code = (
        "import sys, json; from tunesmith.data.checks.secrets import find_secrets\n"
        "for piece in json.loads(sys.argv[1]): find_secrets((piece * 1_000_000)[:1_000_000])"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(REPEATED)], check=True, timeout=120)
    joined = pl.Series([(piece * 100_000)[:100_000] for piece in REPEATED if piece.isascii()])
    assert not joined.str.contains("|".join([SCREEN, EMAIL_SCREEN])).all()
