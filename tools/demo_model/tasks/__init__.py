"""One file per kind of task; every public generator draws one `Episode` from a `random.Random`.

Every choice left as None is drawn from the distribution the model is trained on; the evaluation suites fix
some of them, inside that distribution or beyond it.
"""

from tools.demo_model.tasks.agreement import agreement
from tools.demo_model.tasks.capitals import capital_fact, capital_override
from tools.demo_model.tasks.copying import induction, list_words, long_induction, repeat_words
from tools.demo_model.tasks.people import indirect_object
from tools.demo_model.tasks.retrieval import few_facts, instructed_case, key_value, location, updated_facts

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
