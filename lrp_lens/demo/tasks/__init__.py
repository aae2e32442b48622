"""One file per kind of task; every public generator draws one `Episode` from a `random.Random`.

Every choice left as None is drawn from the distribution the model is trained on; the evaluation suites fix
some of them, inside that distribution or beyond it.
"""

from lrp_lens.demo.tasks.agreement import agreement
from lrp_lens.demo.tasks.capitals import capital_fact, capital_override
from lrp_lens.demo.tasks.copying import induction, list_words, long_induction, repeat_words
from lrp_lens.demo.tasks.people import indirect_object
from lrp_lens.demo.tasks.retrieval import few_facts, instructed_case, key_value, location, updated_facts

__all__ = [
    "agreement",
    "capital_fact",
    "capital_override",
    "few_facts",
    "indirect_object",
    "induction",
    "instructed_case",
    "key_value",
    "list_words",
    "location",
    "long_induction",
    "repeat_words",
    "updated_facts",
]
