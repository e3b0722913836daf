"""What people type into a synthesiser, as it is said: greetings, questions, times, dates, prices, names, addresses."""

import random
from collections.abc import Iterator

from dtm_hf.evaluation.extras import needs

HELLOS = "hello|hi|good morning|good evening|hey|welcome".split("|")
FIRST_NAMES = (
    "Alice Aisha Amir Anna Ben Carlos Chloe Claire Daniel David Elena Emily Fatima George Grace Hannah Henry "
    "Isabel Jack James Jasmine John Julia Kevin Laura Leo Lucy Maria Mark Mei Michael Nadia Noah Olivia Oscar Paul "
    "Peter Priya Rachel Rosa Samuel Sarah Sophie Thomas Victor William Yuki Zoe"
).split()
SURNAMES = (
    "Adams Baker Bennett Brown Campbell Carter Chen Clark Cooper Davies Edwards Evans Fisher Foster Garcia Gray "
    "Green Hall Harris Hughes Jackson Johnson Jones Khan Kim King Kowalski Lee Lewis Martin Miller Morgan Murphy "
    "Nguyen Novak Okafor Parker Patel Phillips Roberts Robinson Rossi Schmidt Scott Shaw Singh Smith Taylor "
    "Thompson Turner Walker Watson White Williams Wilson Wright Young"
).split()
CITIES = (
    "Amsterdam Athens Austin Berlin Birmingham Boston Bristol Cairo Cambridge Chicago Copenhagen Denver Dublin "
    "Edinburgh Florence Geneva Glasgow Houston Istanbul Leeds Lisbon Liverpool London Madrid Manchester Melbourne "
    "Montreal Nairobi Oslo Oxford Paris Philadelphia Phoenix Portland Prague Rome Seattle Singapore Stockholm "
    "Sydney Tokyo Toronto Vienna Warsaw Zurich"
).split()
STREETS = (
    "Birch Bridge Cedar Chapel Church Elm Garden High Hill Lake Main Maple Market Mill Oak Park River School"
).split()
ROADS = "Street Road Avenue Lane Drive Court".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
ITEMS = (
    "apples bananas batteries biscuits blankets bottles boxes candles chairs coats cups eggs envelopes gloves keys "
    "lamps lemons letters onions oranges parcels pencils pillows plates potatoes sandwiches shirts spoons stamps "
    "tickets tomatoes towels umbrellas windows"
).split()
THINGS = (
    "alarm bicycle bill book camera car coffee computer doctor door dinner email flight garden heating hotel "
    "kettle keyboard kitchen laundry lesson letter light luggage medicine meeting menu message music news order "
    "package passport password phone photograph picture plumber printer project radio receipt report room song "
    "station suitcase taxi television ticket timer train umbrella video weather window"
).split()
PLACES = (
    "airport|bakery|bank|beach|bookshop|bus stop|café|car park|castle|cinema|city centre|dentist|gym|hospital|"
    "hotel|library|market|museum|office|park|pharmacy|police station|pool|post office|restaurant|school|shop|"
    "station|supermarket|theatre|town hall|university|zoo"
).split("|")
ADJECTIVES = (
    "beautiful blue broken cheap clean cold comfortable dark delicious difficult easy empty expensive fast fresh "
    "funny good green heavy hot important interesting late long loud lovely new old quiet ready red small strange "
    "strong sweet terrible tired warm wet wonderful wrong yellow young"
).split()
ACTIONS = (
    "answer the phone|bake a cake|book a table|bring a friend|buy some milk|call a taxi|cancel the order|"
    "catch the train|change my password|charge the battery|check the oven|clean the kitchen|close the window|"
    "cook dinner|do the laundry|feed the cat|fill in the form|find my glasses|fix the printer|get some sleep|"
    "give it back|go for a walk|have lunch|learn to swim|leave a message|lock the door|look it up|make some tea|"
    "move the car|open the box|order a pizza|pack my suitcase|pay the bill|pick up the children|play the piano|"
    "post the letter|read the news|rent a bicycle|repeat that|sign the contract|sing a song|speak more slowly|"
    "start the meeting|take a photograph|take the bus|tell me a story|turn down the music|turn off the lights|"
    "visit my parents|wait outside|walk the dog|wash the dishes|water the plants|write it down"
).split("|")
FIXED = (
    "Hello!|Hi there.|Good morning!|Good afternoon.|Good evening.|Good night, sleep well.|How are you?|"
    "How are you doing today?|Nice to meet you.|Pleased to meet you.|Long time no see!|What's up?|Welcome back.|"
    "Goodbye.|See you later.|See you soon!|Take care.|Have a nice day.|Have a good weekend!|Thank you.|"
    "Thank you very much.|Thanks a lot!|You're welcome.|No problem.|Don't worry about it.|I'm sorry.|Excuse me.|"
    "I beg your pardon?|Yes.|No.|Yes, please.|No, thank you.|Maybe.|Of course.|Absolutely!|I don't know.|"
    "I'm not sure.|I have no idea.|That's right.|That's wrong.|I agree.|I think so.|I hope so.|Really?|"
    "Are you serious?|Oh no!|Wow!|Well done!|Congratulations!|Happy birthday!|Merry Christmas!|Happy New Year!|"
    "Good luck!|Cheers!|Help!|Stop!|Wait.|Come in.|Sit down, please.|Be quiet.|Hurry up!|Let's go.|Follow me.|"
    "Be careful.|Look at that!|Listen.|This is a test.|Testing, one, two, three.|Can you hear me?|"
    "Is this thing on?|What is your name?|Where are you from?|What time is it?|What day is it today?|"
    "How old are you?|How much is it?|Where is the bathroom?|Who is there?|Why not?|What happened?|"
    "What do you mean?|What do you do?|Do you speak English?|Could you say that again?|Please speak more slowly.|"
    "I don't understand.|I'm hungry.|I'm tired.|It's raining.|It's cold outside.|I love you.|I miss you.|"
    "See you tomorrow.|Call me back.|Never mind.|It doesn't matter.|Your call is important to us.|"
    "Please hold the line.|Please leave a message after the tone.|Mind the gap.|The doors are closing.|Turn left.|"
    "Turn right at the traffic lights.|Go straight ahead.|You have arrived at your destination.|"
    "Once upon a time there was a little girl.|To be or not to be, that is the question.|"
    "The quick brown fox jumps over the lazy dog."
).split("|")


def phrases(seed: int) -> Iterator[str]:
    """Distinct phrases without end: first each fixed one, in a random order, then draws of every kind in turn."""
    rng = random.Random(f"phrases/{seed}")
    seen = set()
    for text in rng.sample(FIXED, len(FIXED)):
        seen.add(text)
        yield text
    while True:
        for kind in rng.sample(list(KINDS), len(KINDS)):
            text = rng.choice(KINDS[kind])(rng)
            text = text[0].upper() + text[1:].replace(".m..", ".m.")
            if text not in seen:
                seen.add(text)
                yield text


def _words(number: int | float, to: str = "cardinal") -> str:
    with needs("dtm-hf[corpus]"):
        from num2words import num2words

    return num2words(number, to=to)


def _number(rng: random.Random) -> str:
    """Small numbers are as likely as large ones."""
    return _words(rng.randrange(2, 10 ** rng.randint(1, 4)))


def _digits(rng: random.Random, count: int) -> str:
    return " ".join(_words(rng.randrange(10)) for _ in range(count))


def _clock(rng: random.Random) -> str:
    hour, minute = _words(rng.randint(1, 12)), rng.choice([0, 5, 10, 15, 20, 25, 30, 40, 45, 50, rng.randint(10, 59)])
    if minute == 0:
        return f"{hour} o'clock"
    if minute in (15, 30, 45) and rng.random() < 0.5:
        return f"{ {15: 'quarter past', 30: 'half past', 45: 'quarter to'}[minute] } {hour}"
    spoken = f"{hour} {'oh ' if minute < 10 else ''}{_words(minute)}"
    return spoken + rng.choice(["", "", " a.m.", " p.m.", " in the morning", " in the evening"])


def _date(rng: random.Random) -> str:
    day, month = _words(rng.randint(1, 28), "ordinal"), rng.choice(MONTHS)
    spoken = rng.choice([f"{month} {day}", f"the {day} of {month}", f"{month} the {day}"])
    return spoken + (f", {_words(rng.randint(1750, 2030), 'year')}" if rng.random() < 0.4 else "")


def _price(rng: random.Random) -> str:
    whole, unit = rng.randint(2, 300), rng.choice(["dollars", "pounds", "euros"])
    cents = rng.choice(["", "", f" {_words(rng.choice([5, 20, 25, 49, 50, 75, 95, 99]))}"])
    return f"{_words(whole)} {unit}" + (f" and{cents} cents" if cents and unit == "dollars" else cents)


def _name(rng: random.Random) -> str:
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}"


def _title(rng: random.Random) -> str:
    return f"{rng.choice(['Mister', 'Missus', 'Doctor', 'Professor', 'Captain'])} {rng.choice(SURNAMES)}"


def _some(rng: random.Random) -> str:
    return f"{_words(rng.randint(2, 24))} {rng.choice(ITEMS)}"


def _street(rng: random.Random) -> str:
    return f"{_words(rng.randint(1, 199))} {rng.choice(STREETS)} {rng.choice(ROADS)}"


KINDS = {
    "greeting": (
        lambda r: (
            f"{r.choice(['hello', 'hi', 'good morning', 'good evening', 'hey', 'welcome'])}, {r.choice(FIRST_NAMES)}."
        ),
        lambda r: f"hello, my name is {_name(r)}.",
        lambda r: f"nice to meet you, {_title(r)}.",
        lambda r: f"dear {r.choice(FIRST_NAMES)}, thank you for the {r.choice(THINGS)}.",
        lambda r: f"happy birthday, {r.choice(FIRST_NAMES)}!",
        lambda r: f"goodbye, {r.choice(FIRST_NAMES)}, see you on {r.choice(WEEKDAYS)}!",
        lambda r: f"good morning, {_title(r)}, how was {r.choice(CITIES)}?",
    ),
    "question": (
        lambda r: f"where is the {r.choice(PLACES)}?",
        lambda r: f"how do I get to the {r.choice(PLACES)} from the {r.choice(PLACES)}?",
        lambda r: f"can you {r.choice(ACTIONS)}, please?",
        lambda r: f"do I have to {r.choice(ACTIONS)} before {_clock(r)}?",
        lambda r: f"why is the {r.choice(THINGS)} so {r.choice(ADJECTIVES)}?",
        lambda r: f"is the {r.choice(THINGS)} {r.choice(ADJECTIVES)} or {r.choice(ADJECTIVES)}?",
        lambda r: f"have you seen my {r.choice(THINGS)}?",
        lambda r: f"did {r.choice(FIRST_NAMES)} {r.choice(ACTIONS)}?",
        lambda r: f"who forgot to {r.choice(ACTIONS)}?",
        lambda r: f"what's the weather like in {r.choice(CITIES)}?",
        lambda r: f"when does the {r.choice(PLACES)} open on {r.choice(WEEKDAYS)}?",
        lambda r: f"how many {r.choice(ITEMS)} do we need?",
    ),
    "time": (
        lambda r: f"it's {_clock(r)}.",
        lambda r: f"the meeting starts at {_clock(r)}.",
        lambda r: f"set an alarm for {_clock(r)}.",
        lambda r: f"I'll see you at {_clock(r)} on {r.choice(WEEKDAYS)}.",
        lambda r: f"the train to {r.choice(CITIES)} leaves at {_clock(r)} from platform {_words(r.randint(1, 20))}.",
        lambda r: f"set a timer for {_words(r.randint(2, 59))} minutes.",
        lambda r: f"we open at {_clock(r)} and close at {_clock(r)}.",
    ),
    "date": (
        lambda r: f"today is {r.choice(WEEKDAYS)}, {_date(r)}.",
        lambda r: f"my birthday is on {_date(r)}.",
        lambda r: f"{_name(r)} was born on {_date(r)}.",
        lambda r: f"the appointment is on {r.choice(WEEKDAYS)}, {_date(r)}, at {_clock(r)}.",
        lambda r: f"remind me on {_date(r)} to {r.choice(ACTIONS)}.",
        lambda r: f"{_date(r)}.",
    ),
    "number": (
        lambda r: f"{_number(r)}.",
        lambda r: f"that will be {_price(r)}.",
        lambda r: f"the {r.choice(THINGS)} costs {_price(r)}.",
        lambda r: (
            f"I'd like {_words(r.randint(2, 24))} {r.choice(ITEMS)} and {_words(r.randint(2, 24))} {r.choice(ITEMS)}."
        ),
        lambda r: f"my phone number is {_digits(r, 3)}, {_digits(r, 4)}.",
        lambda r: f"the code is {_digits(r, r.randint(4, 6))}.",
        lambda r: f"about {_words(r.randint(2, 98))} percent of the {r.choice(ITEMS)} were {r.choice(ADJECTIVES)}.",
        lambda r: f"it's {_words(r.randint(2, 40))} degrees in {r.choice(CITIES)}.",
        lambda r: f"there are {_number(r)} {r.choice(ITEMS)} in the {r.choice(PLACES)}.",
        lambda r: f"{_words(a := r.randint(2, 50))} plus {_words(b := r.randint(2, 50))} is {_words(a + b)}.",
        lambda r: f"flight {_digits(r, 3)} to {r.choice(CITIES)} is {_words(r.randint(5, 90))} minutes late.",
    ),
    "address": (
        lambda r: f"{_street(r)}, {r.choice(CITIES)}.",
        lambda r: f"I live at {_street(r)}.",
        lambda r: f"please send the {r.choice(THINGS)} to {_name(r)}, {_street(r)}, {r.choice(CITIES)}.",
        lambda r: f"take the {_words(r.randint(1, 5), 'ordinal')} left after the {r.choice(PLACES)}.",
        lambda r: f"{r.choice(FIRST_NAMES)} moved from {r.choice(CITIES)} to {r.choice(CITIES)}.",
        lambda r: f"room {_words(r.randint(1, 60))} is on the {_words(r.randint(1, 9), 'ordinal')} floor.",
    ),
    "request": (
        lambda r: f"please {r.choice(ACTIONS)}.",
        lambda r: f"don't forget to {r.choice(ACTIONS)}.",
        lambda r: f"I want to {r.choice(ACTIONS)} and {r.choice(ACTIONS)}.",
        lambda r: f"{r.choice(FIRST_NAMES)}, could you {r.choice(ACTIONS)}?",
        lambda r: f"let's {r.choice(ACTIONS)} at the {r.choice(PLACES)}.",
        lambda r: f"tell {r.choice(FIRST_NAMES)} to {r.choice(ACTIONS)}.",
        lambda r: f"call {_title(r)} at the {r.choice(PLACES)}.",
    ),
    "remark": (
        lambda r: f"what a {r.choice(ADJECTIVES)} {r.choice(THINGS)}!",
        lambda r: f"the {r.choice(THINGS)} is {r.choice(ADJECTIVES)}.",
        lambda r: f"my {r.choice(THINGS)} is too {r.choice(ADJECTIVES)}, but yours is {r.choice(ADJECTIVES)}.",
        lambda r: f"{r.choice(ADJECTIVES)} {r.choice(ITEMS)}.",
        lambda r: f"the {r.choice(PLACES)} in {r.choice(CITIES)} was {r.choice(ADJECTIVES)}.",
        lambda r: f"I forgot to {r.choice(ACTIONS)}, so we have to wait until {r.choice(WEEKDAYS)}.",
        lambda r: f"{r.choice(FIRST_NAMES)} and {r.choice(FIRST_NAMES)} went to the {r.choice(PLACES)}.",
        lambda r: f"you have {_words(r.randint(2, 12))} new messages from {_name(r)}.",
    ),
}
"""Kind -> makers of a phrase, not yet capitalised."""
