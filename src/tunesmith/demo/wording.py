"""The words of the demo's household: the values of each slot, and the ways to ask for each tool, one a line.

A wording is written as it reads in the middle of a sentence; `household.py` fills the slots in braces,
capitalises and punctuates. It ends with "?" or with nothing. `{amount}` reads "two jars of honey",
`{minutes}` "nine minutes", `{n}` a bare number; `{on}`, `{open}`, `{opened}` and `{up}` read as the state
does ("off", "close", "closed", "down").
"""


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.strip().splitlines())


def _bars(text: str) -> tuple[str, ...]:
    return tuple(" ".join(each.split()) for each in text.split("|"))


ROOMS = _bars("""attic | bathroom | bedroom | dining room | garage | guest room | hallway | kitchen |
    library | living room | nursery | office | playroom | study""")
GENRES = _bars("""blues | bluegrass | bossa nova | disco | flamenco | folk | funk | gospel | hip hop |
    jazz | opera | polka | punk | ragtime | reggae | rock | salsa | samba | ska | soul | swing | tango |
    techno | trance""")
DISHES = _bars("""bread | broccoli | cabbage | cake | casserole | chicken | cornbread | curry | fish |
    gratin | lamb | lasagna | pasta | pie | pizza | pudding | quiche | rice | risotto | salmon | soup |
    stew | turkey""")
ITEMS = {
    "carton": _bars("oat milk | cream | orange juice | apple juice"),
    "bottle": _bars("ketchup | olive oil | soy sauce | vinegar | maple syrup"),
    "can": _bars("tuna | coconut milk | tomato sauce"),
    "jar": _bars("honey | jam | peanut butter | mustard | pesto"),
    "bag": _bars("coffee | flour | sugar | spinach | granola | popcorn"),
    "pack": _bars("butter | tofu | cheese"),
    "box": _bars("cereal | green tea | couscous"),
    "tub": _bars("ice cream | yogurt | hummus"),
}
CONTAINERS = {item: container for container, items in ITEMS.items() for item in items}
CELSIUS = range(16, 25)
MINUTES = (*range(5, 21), 25, 30, 35, 40, 45)
COUNTS = range(1, 7)

UNITS = _bars("""zero | one | two | three | four | five | six | seven | eight | nine | ten | eleven |
    twelve | thirteen | fourteen | fifteen | sixteen | seventeen | eighteen | nineteen""")
TENS = {20: "twenty", 30: "thirty", 40: "forty"}
MINUTE_PHRASES = {15: "a quarter of an hour", 30: "half an hour"}
AMOUNT_PHRASES = {1: "a", 2: "a couple of", 6: "half a dozen"}

# The key of a block says what its wordings fix: "ask" and "hint" name every value, "on" to "closed" imply the
# state, "single" names no count and means one. Only an "ask" may be followed by "please".
WORDINGS = {
    "light": {
        "ask": _lines("""
turn the light {on} in the {room}
turn {on} the {room} light
switch the lights {on} in the {room}
switch {on} the lamp in the {room}
lights {on} in the {room}
{room} lights {on}
I want the lights {on} in the {room}
can you turn {on} the lamp in the {room}?
could you switch the {room} light {on}?
the lamp in the {room} should be {on}
flip the {room} lights {on}
make sure the light in the {room} is {on}
I'd like the light {on} in the {room}
let's have the {room} lights {on}
I need the {room} lamp {on}
would you mind turning the {room} lights {on}?
keep the ceiling light in the {room} {on}
set the {room} lamp to {on}
"""),
        "on": _lines("""
I can't see a thing in the {room}
it is pitch dark in the {room}
somebody is going to trip in the dark in the {room}
I want to read in the {room} but it's too dark
it's black as night in the {room}
why am I standing in the dark in the {room}?
I need some light in the {room}
a bit of light in the {room} would help
I lost my keys in the {room} and it's dark in there
light up the {room}
the {room} is too dim to work in
I can barely see my hands in the {room}
it got dark and I'm still working in the {room}
we're sitting in the dark here in the {room}
I hear a noise in the dark {room} and want to see it
"""),
        "off": _lines("""
nobody is in the {room} any more, why is it still lit?
we're wasting electricity on the lamp in the {room}
I'm going to sleep, make it dark in the {room}
the lamp in the {room} is keeping me awake
why is the {room} still lit up?
nobody needs the light in the {room} now
I forgot the light in the {room} when I left
kill the lights in the {room}
the {room} is empty, no need for light there
no more light in the {room}
the bulb in the {room} has been burning all night
someone left the {room} lights burning
we left the {room}, it doesn't have to stay lit
I want complete darkness in the {room}
that lamp in the {room} hurts my eyes
"""),
    },
    "blinds": {
        "ask": _lines("""
{open} the blinds in the {room}
{open} the {room} curtains
please {open} the shutters in the {room}
could you {open} the curtains in the {room}?
can you {open} the {room} blinds for me?
I want the blinds {opened} in the {room}
the curtains in the {room} should be {opened}
{room} blinds {opened}
I'd like the {room} curtains {opened}
make sure the {room} blinds are {opened}
pull {up} the blinds in the {room}
would you {open} the {room} shutters?
let's {open} the blinds in the {room}
go ahead and {open} the {room} curtains
I need you to {open} the blinds in the {room}
it's time to {open} the curtains in the {room}
roll {up} the shutters in the {room}
keep the {room} curtains {opened}
"""),
        "open": _lines("""
let the sun into the {room}
let some daylight into the {room}
I want to wake up to sunshine in the {room}
what a lovely day, let the sunshine into the {room}
draw back the curtains in the {room}
fill the {room} with sunshine
the plants in the {room} need some sun
I want to look out of the {room} window
show me the view from the {room}
I'd love to see the sunrise from the {room}
I can't see the garden from the {room}
it's sunny outside and the {room} is still shuttered
the sun is out, let it shine into the {room}
why are we hiding from the sun in the {room}?
I want to watch the snow fall from the {room}
"""),
        "closed": _lines("""
the neighbours can see right into the {room}
people on the street are staring into the {room}
the sun is blinding me in the {room}
the sun is shining right on the screen in the {room}
keep the sun out of the {room}
I want some privacy in the {room}
block the daylight in the {room}
drop the shutters in the {room}
no more sun in the {room}
I'm getting changed in the {room}, no peeking from outside
anyone can look in through the {room} window
it's too sunny in the {room}
the afternoon sun is cooking the {room}
the sunlight is fading the sofa in the {room}
I don't want passers-by looking into the {room}
"""),
    },
    "heating": {
        "ask": _lines("""
set the {room} to {n} degrees
heat the {room} to {n}
make it {n} degrees in the {room}
set the heating in the {room} to {n}
{n} degrees in the {room}
warm up the {room} to {n} degrees
turn the {room} thermostat to {n}
put the {room} heating at {n}
I'd like the {room} at {n} degrees
I want {n} degrees in the {room}
keep the {room} at {n} degrees
could you bring the {room} to {n} degrees?
can you get the {room} to {n}?
adjust the {room} radiator to {n}
the thermostat in the {room} should say {n}
I need it at {n} degrees in the {room}
let's have {n} degrees in the {room}
change the temperature of the {room} to {n}
hold the {room} at {n} degrees
heating to {n} in the {room}
temperature in the {room}, {n} degrees
{room} thermostat, {n} degrees
the {room} has to be {n} degrees
radiator in the {room} to {n} degrees
"""),
        "hint": _lines("""
I'm freezing in the {room}, {n} degrees would help
it's chilly in the {room}, {n} would be nicer
brr, the {room} is an icebox, make it {n}
the {room} feels too warm, {n} degrees is plenty
the baby sleeps best at {n} degrees in the {room}
my feet are cold in the {room}, I need {n} degrees
grandma likes the {room} at {n}
nobody can work in the {room} below {n} degrees
we're wearing coats in the {room}, take it to {n}
I'm sweating in the {room}, {n} is enough
the doctor wants the {room} kept at {n} degrees
why isn't the {room} at {n} degrees yet?
the {room} could use some warmth, say {n} degrees
we can save energy in the {room}, {n} will do
is {n} degrees possible in the {room}?
the {room} was cold last night, {n} from now on
I can see my breath in the {room}, try {n} degrees
the {room} is never cosy below {n} degrees
guests in the {room} expect {n} degrees
{n} would feel just right in the {room}
the orchids in the {room} want {n} degrees
the air in the {room} isn't right, {n} is better
I'm shivering in the {room}, how about {n}?
the cat likes it warm, so {n} degrees in the {room}
"""),
    },
    "timer": {
        "ask": _lines("""
set a timer for the {dish}, {minutes}
set {minutes} for the {dish}
{minutes} for the {dish}
start a {n}-minute timer for the {dish}
timer for the {dish}, {minutes}
give the {dish} {minutes}
remind me about the {dish} in {minutes}
call me in {minutes} for the {dish}
{dish} timer, {minutes}
I need a {dish} timer for {minutes}
could you time the {dish} for {minutes}?
can you ping me about the {dish} in {minutes}?
count down {minutes} for the {dish}
tell me when the {dish} has had {minutes}
let me know in {minutes} to check the {dish}
watch the clock for the {dish}, {minutes}
put {minutes} on the clock for the {dish}
beep in {minutes} for the {dish}
give me a shout about the {dish} in {minutes}
time {minutes} for the {dish}
wake me in {minutes} for the {dish}
I want an alert for the {dish} in {minutes}
keep track of the {dish} for {minutes}
make some noise in {minutes}, it's for the {dish}
"""),
        "hint": _lines("""
the {dish} needs {minutes}
the {dish} has to cook for {minutes}
the recipe says {minutes} for the {dish}
the {dish} comes out in {minutes}
don't let me burn the {dish}, it takes {minutes}
I always forget the {dish}, it gets {minutes}
the {dish} went in just now, {minutes} to go
I've just started the {dish}, it wants {minutes}
{minutes} and the {dish} is done
in {minutes} the {dish} will be ready, don't let me forget
the {dish} should be perfect after {minutes}
the label says to cook the {dish} for {minutes}
grandma cooks her {dish} for {minutes}, so will I
the {dish} can stay in for {minutes}
the {dish} is cooking, check in {minutes}
how will I know when the {dish} has had {minutes}?
I have to rescue the {dish} in {minutes}
my {dish} takes {minutes}
I can't leave the {dish} longer than {minutes}
after {minutes} the {dish} turns to charcoal
the {dish} is ruined if it gets more than {minutes}
we eat the {dish} in {minutes}
the {dish} isn't done yet, it needs {minutes} more
the {dish} gets {minutes} and not a moment longer
"""),
    },
    "shopping": {
        "ask": _lines("""
add {amount} to the shopping list
put {amount} on the list
buy {amount}
we need {amount}
order {amount}
get {amount} from the shop
I need {amount} for tomorrow
note down {amount}
could you add {amount} to my list?
can you order {amount} for us?
{amount} for the shopping list
write down {amount}
pick up {amount} on the next trip
{amount}, on the list
let's get {amount}
we should buy {amount}
remember {amount} for the shop
I want {amount} in the next delivery
"""),
        "hint": _lines("""
we're out of {item}, get {n}
the {item} is gone, buy {n}
there's no {item} left, order {n}
who finished the {item}? Get {n} more
someone used up the {item}, we need {n}
I can't live without {item}, add {n}
my recipe calls for {amount}
our guests love {item}, so get {n}
the {item} is on sale, grab {n}
the kids finished the {item}, {n} more should do
we always run short of {item}, let's stock {n}
the {item} is nearly empty, order {n}
we're low on {item}, {n} should be enough
I promised to bring {amount} to the party
mum wants {amount} for the weekend
breakfast is nothing without {item}, get {n}
we'll need {amount} when my brother visits
I'm dreaming of {item}, buy me {n}
"""),
        "single": _lines("""
the {item} is all gone
put {item} on the list
I finished the {item} this morning
there's hardly any {item} in the house
don't let me forget {item} at the shop
somebody took the last of the {item}
we need {item} again
the {item} ran out yesterday
could you add {item} to the shopping list?
I'd like some {item} from the shop
who used up all the {item}?
we have run out of {item}
"""),
    },
    "music": {
        "ask": _lines("""
play {genre} in the {room}
play some {genre} for us in the {room}
put on some {genre} in the {room}
{genre} in the {room}
I want to hear {genre} in the {room}
start some {genre} in the {room}
could you play {genre} in the {room}?
can I have some {genre} in the {room}?
{genre} music in the {room}
let's hear {genre} in the {room}
music in the {room}, {genre}
send some {genre} to the {room}
fill the {room} with {genre}
give me {genre} in the {room}
stream {genre} to the {room}
tune the {room} speaker to {genre}
the {room} speaker should play {genre}
I'd like to listen to {genre} in the {room}
change the music in the {room} to {genre}
crank up the {genre} in the {room}
blast {genre} through the {room}
find me some {genre} for the {room}
{room} speaker, {genre}
let {genre} play in the {room}
"""),
        "hint": _lines("""
I'm in the mood for {genre} in the {room}
it's too quiet in the {room}, maybe {genre}?
I feel like dancing to {genre} in the {room}
the {room} is so silent, {genre} would help
nothing beats {genre} while I tidy the {room}
we're having a {genre} night in the {room}
the guests in the {room} asked for {genre}
what about some {genre} in the {room}?
dad only listens to {genre} and he is in the {room}
a little {genre} would cheer up the {room}
the party in the {room} needs {genre}
I work best with {genre} in the {room}
the {room} could do with some {genre}
the baby in the {room} falls asleep to {genre}
I'm bored in the {room}, {genre} might save me
I love cleaning the {room} to {genre}
the dog calms down with {genre} in the {room}
yoga in the {room} goes well with {genre}
my friends are in the {room} and they love {genre}
isn't {genre} the right thing for the {room} tonight?
{genre} would suit the {room} now
how about {genre} while I'm in the {room}?
there's no atmosphere in the {room} without {genre}
I can't relax in the {room} without {genre}
"""),
    },
}

OPENERS = _bars("""hey, | hi, | okay, | right, | oh, | hello there, | excuse me, | listen, | well, |
    hey house, | good evening, | quick favour, | my hands are full, | I just got home, |
    sorry to bother you, | before I forget,""")
THANKS = _bars("thanks | thank you | cheers | thanks a lot | thanks so much | much appreciated")
PLEASES = _bars(
    "please | if you can | when you have a moment | if you don't mind | as soon as you can | pretty please"
)

# Remarks beside the point: they hold a room or a number that must not reach the call.
ASIDES = {
    "ask": _bars("I'm in the {other}, {core} | leave the {other} alone, {core} | {core}, not the {other}"),
    "hint": _bars("the {other} is fine, but {core} | {core}, the {other} is fine"),
    "no room": _bars("I'm in the {other}, {core} | {core}, I'll be in the {other}"),
    "number": _bars("""there are {number} of us tonight, {core} | it's nearly {number} o'clock, {core} |
        my train leaves at {number}, {core} | we have {number} guests, {core} |
        {core}, I have to leave at {number}"""),
}

# How a speaker takes a value back: `{new}` is what was meant; "on" is a light's state, "open" that of blinds.
CORRECTIONS = {
    "room": _bars("""no wait, the {new} | sorry, I mean the {new} | actually, the {new} |
        no, make that the {new} | I meant the {new} | oops, the {new} I mean"""),
    "celsius": _bars("no, make it {new} | actually, {new} is better | sorry, {new} degrees | no wait, {new}"),
    "minutes": _bars("""no, make it {new} minutes | sorry, {new} minutes | actually, {new} minutes |
        no wait, {new} minutes"""),
    "count": _bars("no, make that {new} | actually, {new} | sorry, I mean {new} | no wait, {new}"),
    "for": _bars("no wait, the {new} | sorry, I mean the {new} | actually, the {new}"),
    "item": _bars("no wait, {new} | sorry, I mean {new} | actually, {new} | I meant {new}"),
    "genre": _bars("no wait, {new} | sorry, I mean {new} | actually, {new} | no, rather {new}"),
    "on": _bars("no wait, {new} | sorry, I mean {new} | no, {new} I mean"),
    "open": _bars("no wait, {new} them | sorry, {new} them I mean | actually, {new} them"),
}
