"""The word lists of the demo corpus and the one vocabulary made of them.

The vocabulary is word-level and closed: one word is one token, words are separated by one space, and
case matters (``key`` and ``KEY`` are two tokens, which is what the upper-case instruction is about).
"""

import random

BOS, PAD, UNKNOWN = "<bos>", "<pad>", "<unk>"
SPECIAL_WORDS = (BOS, PAD, UNKNOWN)

FUNCTION_WORDS = tuple(
    """each both . , : ; ? then and went to the gave when were at handed had a long talk after that sent
    while working passed friends found showed left offered this morning met later brought decided visit
    there lent with who came said nothing threw was waiting for because given by wanted so stayed home saw
    likes holds question what is in answer now first where upper lower case list words commas repeat has
    capital of story are have today yesterday always near behind under above beside like not
    before""".split()
)
NAMES = tuple(
    """tom mary john anna paul lucy mark emma jack sara luke kate alex nina adam rosa carl ella dean ruth
    eric jane fred lily greg maya hugo nora ivan olga joel pam ken rita leo sue max tina ned vera omar
    wendy pete zoe ray amy sam beth tim cora vic dora will eve york faye zack gina abe hana ben iris cal
    june dan kim""".split()
)
OBJECTS = tuple(
    """key coin ring book lamp cup hat pen map rope bell knife stone apple candle brush letter shoe clock
    mirror ball glass flute card basin button drum shell mask flag ladder spoon ticket vase whip nail comb
    plate doll scarf""".split()
)
PEOPLE = tuple("girl boy teacher farmer doctor driver singer baker guard king queen friend".split())
PLACES = tuple(
    """garden kitchen market school park station library office museum harbor forest church hotel tower
    bridge cellar attic barn stable temple theater bakery farm river castle village square cave beach
    shop""".split()
)
COLOURS = tuple("red blue green black white yellow brown grey pink orange purple golden".split())
CONTAINERS = tuple("box bag jar drawer basket chest tin crate".split())
COUNTRIES = tuple(
    """avaria bendor caluna dorvia estara felmar gorania halvia istria jorland kestia lomar mirova norvia
    ostrel parlia quenta rovia selmar tarnia ulvia vestra wendia xanor yoldia zarnia altora brelia corvia
    drenia elmora fardia gralia hestia irland jurnia kolvia lestra morvia nelia""".split()
)
CITIES = tuple(
    """aldin brona cedra dunal elwin farno grevin holt imra jasto kelim lorna melvo narik ondo prell quist
    rondel sarno telvo umbra vanto welno xilta yarno zemba arlin bosco crest delmo envar foltz garno hilda
    inver jolta kadim lintz montor nerva""".split()
)

_IRREGULAR_PLURALS = {"knife": "knives", "brush": "brushes", "glass": "glasses", "scarf": "scarves"}
PLURALS = {noun: _IRREGULAR_PLURALS.get(noun, noun + "s") for noun in OBJECTS + PEOPLE}
"""Singular noun to its plural, for every object and every kind of person."""

UPPER_CASE = {noun: noun.upper() for noun in OBJECTS}
"""Object to its upper-case token."""

CONTENT_WORDS = NAMES + OBJECTS + PLACES + COLOURS + CITIES + PEOPLE
"""The words that lists and random sequences are drawn from."""


def _assign_capitals() -> dict[str, str]:
    cities = list(CITIES)
    random.Random(7).shuffle(cities)
    return dict(zip(COUNTRIES, cities, strict=True))


CAPITALS = _assign_capitals()
"""The country-capital facts that the model is to memorise."""

WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        SPECIAL_WORDS
        + FUNCTION_WORDS
        + NAMES
        + OBJECTS
        + tuple(PLURALS.values())
        + tuple(UPPER_CASE.values())
        + PEOPLE
        + PLACES
        + COLOURS
        + CONTAINERS
        + COUNTRIES
        + CITIES
    )
)
"""Every token; a word's index in this tuple is its token id."""

TOKEN_IDS = {word: index for index, word in enumerate(WORDS)}
"""Word to token id; `<bos>` is 0, `<pad>` 1, `<unk>` 2."""
