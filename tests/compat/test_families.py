"""Each family in each dtype through each operation: it works, or ends as the family says."""

from __future__ import annotations

import pytest
import torch

from tests.compat.cases import Case, tied_names
from tests.compat.families import FAMILIES, DenseRefuses
from tests.compat.operations import OPERATIONS, applies

pytestmark = pytest.mark.slow  # compiles and exports some fifty networks

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(
    scope="session",
    params=[(family, dtype) for family in FAMILIES for dtype in DTYPES],
    ids=lambda pair: f"{pair[0].name}-{str(pair[1]).removeprefix('torch.')}",
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, dtype = request.param
    return Case(family, dtype, tmp_path_factory.mktemp(family.name))


def test_tied_names_are_those_that_the_family_lists(case: Case) -> None:
    assert tied_names(case.dense) == case.family.tied


@pytest.mark.parametrize("operation", OPERATIONS)
def test_cell(case: Case, operation: str) -> None:
    check = OPERATIONS[operation]
    outcome = case.family.outcomes.get(operation)
    if not applies(operation, case.family):
        assert outcome is None
    elif isinstance(outcome, DenseRefuses):
        for model in (case.dense, case.compressed):
            with pytest.raises(outcome.error, match=outcome.pattern):
                check(case, model)
    else:
        check(case)
