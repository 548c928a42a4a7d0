"""All mutations."""

from tests.mutations import mutations, silent

MUTATIONS = [*mutations.MUTATIONS, *silent.MUTATIONS]
