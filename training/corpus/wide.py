"""The wide domain: grammatical English of several thousand words, from templates over word lists."""

import functools
import random
from importlib.resources import files

import yaml

from dtm_hf.training.corpus.closed import MONTHS, WEEKDAYS, closed_sentence
from dtm_hf.training.corpus.inflection import Verb, article, conjugate, plural
from dtm_hf.training.corpus.numbers import spell_number

_VERB_LISTS = ("do_object", "do_person", "do_idea", "move", "think", "weather_verbs")
_NOUN_LISTS = ("people", "animals", "foods", "objects", "places", "ideas")
_PRONOUNS = ("I", "you", "he", "she", "we", "they")
_OBJECT_PRONOUNS = ("me", "you", "him", "her", "us", "them")
_POSSESSIVES = ("my", "your", "his", "her", "our", "their")
_WHERE = ("in", "near", "behind", "beside", "outside", "at", "around", "past", "toward", "inside", "across", "beyond")
_ON_THINGS = ("on", "under", "beside", "behind", "near", "against", "above", "below", "next to", "in front of")
_MODALS = ("can", "could", "should", "must", "might", "may", "will", "would", "cannot", "should not", "will not")
_CONNECTIVES = (
    "and",
    "but",
    "because",
    "although",
    "while",
    "when",
    "before",
    "after",
    "until",
    "so",
    "unless",
    "since",
)


class Lexicon:
    """The word lists with their inflected forms."""

    def __init__(self) -> None:
        text = files("dtm_hf.training.corpus").joinpath("data/wide.yaml").read_text(encoding="utf-8")
        self.words: dict[str, list[str]] = {name: words.split() for name, words in yaml.safe_load(text).items()}
        irregular = [entry.split(":") for entry in self.words.pop("irregular_verbs")]
        verbs = {base: (past, participle) for base, past, participle in irregular}
        self.verbs: dict[str, list[Verb]] = {
            name: [conjugate(entry, verbs) for entry in self.words.pop(name)] for name in _VERB_LISTS
        }
        self._plurals = dict(entry.split(":") for entry in self.words.pop("irregular_plurals"))

    def plural(self, noun: str) -> str:
        return self._plurals.get(noun) or plural(noun)


@functools.cache
def lexicon() -> Lexicon:
    """The word lists, read once a process."""
    return Lexicon()


@functools.cache
def wide_word_list() -> tuple[str, ...]:
    """Every word of the lists in every inflected form, sorted: what the short word sequences draw from."""
    lex = lexicon()
    found = {word for words in lex.words.values() for word in words}
    found |= {lex.plural(noun) for name in (*_NOUN_LISTS, "units", "periods") for noun in lex.words[name]}
    for verbs in lex.verbs.values():
        for verb in verbs:
            found |= {verb.base, verb.third, verb.past, verb.participle, verb.gerund}
    found |= {word for number in range(100) for word in spell_number(number).split()}
    found |= {"hundred", "thousand", *MONTHS, *WEEKDAYS, *_PRONOUNS, *_OBJECT_PRONOUNS, *_POSSESSIVES, *_CONNECTIVES}
    return tuple(sorted(found))


class _Grammar:
    """Phrases drawn from one random stream."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lex = lexicon()

    def one(self, name: str) -> str:
        return self.rng.choice(self.lex.words[name])

    def verb(self, name: str) -> Verb:
        return self.rng.choice(self.lex.verbs[name])

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def noun(self, kind: str, adjectives: str, *, many: bool = False) -> str:
        """An optionally described noun, without determiner."""
        noun = self.one(kind)
        noun = self.lex.plural(noun) if many else noun
        return f"{self.one(adjectives)} {noun}" if self.chance(0.4) else noun

    def determined(self, phrase: str) -> str:
        """A singular noun phrase with its determiner."""
        kind = self.rng.random()
        if kind < 0.4:
            return f"the {phrase}"
        if kind < 0.65:
            return f"{article(phrase)} {phrase}"
        if kind < 0.85:
            return f"{self.rng.choice(_POSSESSIVES)} {phrase}"
        return f"{self.pick('this', 'that', 'every', 'another', 'each')} {phrase}"

    def counted(self, phrase: str) -> str:
        """A plural noun phrase with its determiner."""
        if self.chance(0.35):
            return f"{spell_number(self.rng.choice((self.rng.randint(2, 20), self.rng.randint(2, 999))))} {phrase}"
        words = ("the", "some", "these", "those", "many", "several", "a few", "all the", "most", "no", *_POSSESSIVES)
        return f"{self.rng.choice(words)} {phrase}"

    def thing(self) -> str:
        kind = self.rng.random()
        if kind < 0.45:
            return self.determined(self.noun("objects", "thing_adjectives"))
        if kind < 0.60:
            return self.determined(self.noun("foods", "thing_adjectives"))
        if kind < 0.70:
            return f"{self.pick('the', 'some', 'their', 'my', 'the fresh', 'the warm')} {self.one('liquids')}"
        if kind < 0.78:
            return self.determined(f"{self.one('materials')} {self.one('objects')}")
        kind = self.pick("objects", "objects", "foods")
        return self.counted(self.noun(kind, "thing_adjectives", many=True))

    def idea(self) -> str:
        many = self.chance(0.3)
        phrase = self.noun("ideas", "idea_adjectives", many=many)
        return self.counted(phrase) if many else self.determined(phrase)

    def person(self) -> str:
        kind = self.rng.random()
        if kind < 0.3:
            return self.one("names")
        if kind < 0.45:
            return self.rng.choice(_OBJECT_PRONOUNS)
        if kind < 0.85:
            return self.determined(self.noun("people", "person_adjectives"))
        return self.counted(self.noun("people", "person_adjectives", many=True))

    def subject(self) -> tuple[str, bool]:
        """A noun phrase that acts, and whether its verb is in the third person singular."""
        kind = self.rng.random()
        if kind < 0.25:
            pronoun = self.rng.choice(_PRONOUNS)
            return pronoun, pronoun in ("he", "she")
        if kind < 0.45:
            return self.one("names"), True
        if kind < 0.52:
            return f"{self.one('names')} and {self.one('names')}", False
        if kind < 0.75:
            return self.determined(self.noun("people", "person_adjectives")), True
        if kind < 0.85:
            return self.determined(self.noun("animals", "thing_adjectives")), True
        kind, adjectives = self.rng.choice((("people", "person_adjectives"), ("animals", "thing_adjectives")))
        return self.counted(self.noun(kind, adjectives, many=True)), False

    def where(self) -> str:
        if self.chance(0.15):
            return f"in {self.one('regions')}"
        if self.chance(0.25):
            return f"{self.rng.choice(_ON_THINGS)} the {self.noun('objects', 'thing_adjectives')}"
        return f"{self.rng.choice(_WHERE)} the {self.noun('places', 'thing_adjectives')}"

    def when(self, *, past: bool) -> str:
        number = self.rng.randint(2, 90)
        choices = [f"on {self.rng.choice(WEEKDAYS)}", f"in {self.rng.choice(MONTHS)}", f"at {self.clock()}"]
        unit = self.one("periods")
        if past:
            choices += ["yesterday", f"last {unit}", f"{spell_number(number)} {self.lex.plural(unit)} ago"]
        else:
            choices += ["tomorrow", "tonight", f"next {unit}", f"in {spell_number(number)} {self.lex.plural(unit)}"]
        return self.rng.choice(choices)

    def clock(self) -> str:
        hour = spell_number(self.rng.randint(1, 12))
        minute = spell_number(self.rng.randint(10, 59))
        return self.pick(f"{hour} o'clock", f"half past {hour}", f"quarter to {hour}", f"{hour} {minute}", "noon")

    def action(self) -> tuple[Verb, str]:
        """A verb and what follows it."""
        kind = self.rng.random()
        if kind < 0.35:
            verb, rest = self.verb("do_object"), self.thing()
        elif kind < 0.55:
            verb, rest = self.verb("do_person"), self.person()
        elif kind < 0.72:
            verb, rest = self.verb("do_idea"), self.idea()
        else:
            verb, rest = self.verb("move"), self.where() if self.chance(0.6) else self.one("manner_adverbs")
        return verb, rest

    def clause(self, *, past: bool | None = None, extras: bool = True) -> str:
        """Subject, verb and the rest, in past or present."""
        past = self.chance(0.65) if past is None else past
        who, third = self.subject()
        verb, rest = self.action()
        form = verb.past if past else verb.third if third else verb.base
        often = f"{self.one('frequency_adverbs')} " if extras and self.chance(0.12) else ""
        tail = ""
        if extras and self.chance(0.2):
            tail = f" {self.one('manner_adverbs')}" if not rest.endswith("ly") else ""
        elif extras and past and self.chance(0.25):
            tail = f" {self.when(past=True)}"
        return f"{who} {often}{form} {rest}{tail}"


def _be(third: bool, who: str, past: bool) -> str:
    if past:
        return "was" if third or who == "I" else "were"
    return "am" if who == "I" else "is" if third else "are"


def _statement(g: _Grammar) -> str:
    return g.clause()


def _joined(g: _Grammar) -> str:
    past = g.chance(0.7)
    return f"{g.clause(past=past, extras=False)} {g.rng.choice(_CONNECTIVES)} {g.clause(past=past, extras=False)}"


def _opened(g: _Grammar) -> str:
    return f"{g.one('sentence_adverbs')}, {g.clause(past=True)}"


def _modal(g: _Grammar) -> str:
    who, _ = g.subject()
    verb, rest = g.action()
    tail = f" {g.when(past=False)}" if g.chance(0.4) else ""
    return f"{who} {g.rng.choice(_MODALS)} {verb.base} {rest}{tail}"


def _progressive(g: _Grammar) -> str:
    who, third = g.subject()
    verb, rest = g.action()
    return f"{who} {_be(third, who, g.chance(0.5))} {g.pick('', '', 'not ', 'still ')}{verb.gerund} {rest}"


def _perfect(g: _Grammar) -> str:
    who, third = g.subject()
    verb, rest = g.action()
    have = "had" if g.chance(0.3) else "has" if third else "have"
    return f"{who} {have} {g.pick('', '', 'never ', 'already ', 'just ', 'always ')}{verb.participle} {rest}"


def _passive(g: _Grammar) -> str:
    verb = g.verb("do_object")
    thing = g.determined(g.noun("objects", "thing_adjectives"))
    tail = g.pick(f" by {g.one('names')}", f" {g.one('manner_adverbs')}", f" {g.where()}", f" {g.when(past=True)}")
    return f"{thing} was {verb.participle}{tail}"


def _description(g: _Grammar) -> str:
    degree = f"{g.one('degree_adverbs')} " if g.chance(0.5) else ""
    kind = g.rng.random()
    if kind < 0.4:
        who, third = g.subject()
        return f"{who} {_be(third, who, g.chance(0.5))} {degree}{g.one('person_adjectives')}"
    tense = g.pick("is", "was", "looks", "seemed")
    if kind < 0.75:
        return f"the {g.one('objects')} {g.where()} {tense} {degree}{g.one('thing_adjectives')}"
    return f"{g.determined(g.one('ideas'))} {tense} {degree}{g.one('idea_adjectives')}"


def _reported(g: _Grammar) -> str:
    who, third = g.subject()
    verb = g.verb("think")
    past = g.chance(0.6)
    form = verb.past if past else verb.third if third else verb.base
    return f"{who} {form} that {g.clause(past=past, extras=False)}"


def _there(g: _Grammar) -> str:
    if g.chance(0.4):
        phrase = g.noun("objects", "thing_adjectives")
        return f"there {g.pick('is', 'was')} {article(phrase)} {phrase} {g.where()}"
    kind = g.pick("objects", "animals", "people", "places", "foods")
    number = spell_number(g.rng.randint(2, 99))
    return f"there {g.pick('are', 'were')} {number} {g.noun(kind, 'thing_adjectives', many=True)} {g.where()}"


def _command(g: _Grammar) -> str:
    verb, rest = g.action()
    start = g.pick("", "", "please ", "never ", "always ", "do not ", "let us ", "try to ", "remember to ")
    return f"{start}{verb.base} {rest}"


def _yes_no_question(g: _Grammar) -> str:
    who, third = g.subject()
    verb, rest = g.action()
    kind = g.rng.random()
    if kind < 0.4:
        return f"{g.pick('did', 'does' if third else 'do')} {who} {verb.base} {rest}?"
    if kind < 0.7:
        return f"{g.pick('can', 'could', 'will', 'would', 'should', 'must')} {who} {verb.base} {rest}?"
    return f"{_be(third, who, g.chance(0.5))} {who} {verb.gerund} {rest}?"


def _open_question(g: _Grammar) -> str:
    who, third = g.subject()
    verb, rest = g.action()
    help_verb = g.pick("did", "does" if third else "do")
    kind = g.rng.random()
    if kind < 0.45:
        return f"{g.pick('why', 'when', 'how', 'where')} {help_verb} {who} {verb.base} {rest}?"
    if kind < 0.6:
        return f"who {verb.past} {rest}?"
    if kind < 0.8:
        return f"how many {g.lex.plural(g.one('objects'))} {help_verb} {who} {g.verb('do_object').base}?"
    return f"what {help_verb} {who} {g.verb('do_object').base} {g.where()}?"


def _weather(g: _Grammar) -> str:
    verb = g.verb("weather_verbs")
    return f"the {g.noun('nature', 'thing_adjectives')} {verb.past} {g.pick(g.where(), g.when(past=True))}"


def _comparison(g: _Grammar) -> str:
    name = g.pick("objects", "animals", "places")
    degree = g.pick("more", "less")
    if g.chance(0.5):
        return f"the {g.one(name)} is {degree} {g.one('idea_adjectives')} than the {g.one(name)}"
    return f"the {g.one(name)} is as {g.one('thing_adjectives')} as the {g.one(name)}"


def _quantity(g: _Grammar) -> str:
    number = g.rng.choice((g.rng.randint(2, 99), g.rng.randint(100, 9999)))
    amount = f"{spell_number(number)} {g.lex.plural(g.one('units'))}"
    thing = g.one("objects")
    return g.pick(
        f"the {thing} costs {spell_number(number)} dollars",
        f"it takes {amount} to {g.verb('do_object').base} the {thing}",
        f"the {g.one('places')} is {spell_number(number)} {g.pick('miles', 'meters', 'kilometers', 'steps')} away",
        f"{g.one('names')} needs {amount} of {g.one('liquids')}",
        f"the {g.one('ideas')} lasted {spell_number(number)} {g.lex.plural(g.one('periods'))}",
        f"{g.one('names')} lives at number {spell_number(number)} {g.where()}",
    )


# Template -> weight.
_TEMPLATES = {
    _statement: 24,
    _joined: 8,
    _opened: 5,
    _modal: 8,
    _progressive: 7,
    _perfect: 6,
    _passive: 6,
    _description: 8,
    _reported: 5,
    _there: 5,
    _command: 6,
    _yes_no_question: 6,
    _open_question: 6,
    _weather: 4,
    _comparison: 3,
    _quantity: 6,
}


def wide_sentence(rng: random.Random) -> str:
    """One full-template sentence, not capitalised; only questions are ended. A tenth is of the closed domain."""
    if rng.random() < 0.1:
        return closed_sentence(rng)
    template = rng.choices(tuple(_TEMPLATES), weights=tuple(_TEMPLATES.values()))[0]
    return template(_Grammar(rng))


def wide_words(rng: random.Random) -> str:
    """One to five words in any order: a rare word is heard as often as a common one."""
    return " ".join(rng.choice(wide_word_list()) for _ in range(rng.randint(1, 5)))
