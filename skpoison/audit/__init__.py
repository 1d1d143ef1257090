"""The main job: how poisonable is an estimator, and what does each defense buy?"""

from skpoison.audit import (  # noqa: F401  (they fill the registry)
    _attack_entries,
    _client_entries,
    _defense_entries,
)
from skpoison.audit._compare import compare_defenses, defend
from skpoison.audit._registry import (
    AttackEntry,
    AuditContext,
    DefenseEntry,
    register_attack,
    register_defense,
)
from skpoison.audit._report import AuditReport, print_report, write_html
from skpoison.audit._run import audit

__all__ = [
    "AttackEntry",
    "AuditContext",
    "AuditReport",
    "DefenseEntry",
    "audit",
    "compare_defenses",
    "defend",
    "print_report",
    "register_attack",
    "register_defense",
    "write_html",
]
