from tests import type_checks

type_checks.install()
