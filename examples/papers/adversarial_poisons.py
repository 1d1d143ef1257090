"""Training on poisons that are made in each batch, against poisons and backdoors.

    python examples/papers/adversarial_poisons.py --out adversarial.jsonl
    python examples/papers/adversarial_poisons.py --out adversarial.jsonl --show
    python examples/papers/adversarial_poisons.py --out full.jsonl --full

J. Geiping et al. What doesn't kill you makes you robust(er): how to adversarially train
against data poisoning. 2021. arXiv:2102.13624.

Claim: a network that is trained on batches which are poisoned as an attacker would,
with right labels, is hardly moved by targeted poisons or backdoors, and loses less
accuracy than with DP-SGD or ordinary adversarial training. The abstract has no figures
and the paper's tables were not at hand.

Here: first table, backdoors on Fashion-MNIST, as in augmentation.py: 4,000 rows of 14
by 14 pixels, a small convolutional network, 24 epochs; "adversarial patches" puts
random patches, one a class, into its batches. Second table, gradient matching as in
witches_brew.py on 2,000 rows of 28 by 28 pixels, 5 % poisons of the wished class,
radius 32 of 255, crafted on plain networks, against victims that train plainly, on
gradient matching within the batch (2 steps in place of 5), or on adversarial examples
(2 steps); 6 targets of near classes, 1 victim each, intervals over targets.

--full is CIFAR-10 and a ResNet-18; of the targeted attack it is the setting of Witches'
Brew that is published by name, with victims that train on 5 steps, a run a target.

Why it may differ: a network on CIFAR-10 has ten times the rows and 40 epochs of
augmented images in which to learn what poisons look like; the poisons in the batches
have the default radius, 16 of 255, half of the attacker's. The attacker here does not
know the defense.
"""

from argparse import Namespace
from dataclasses import replace

from _backdoored import (
    backdoor_arguments,
    change,
    chosen_poisons,
    run_backdoors,
    show_backdoors,
)
from _runs import Runs, sign
from _targeted import (
    add_counts,
    difference,
    run_keys,
    run_settings,
    run_small,
    show_targeted,
    small_victim,
)
from _verdicts import compared, conclude, told

from skpoison.attacks import GradientMatchingAttack
from skpoison.defenses import AdversarialPoisonClassifier
from skpoison.model_selection import published_setting

PLAIN = "gradient matching, plain"
TRAINED = "gradient matching, trained on poisons"
EVASION = "gradient matching, adversarial training"


def defended(victim, attack, max_iter):
    """Return a victim that trains as this one, on batches that poison themselves."""
    return AdversarialPoisonClassifier(
        attack=attack, max_iter=max_iter, **victim.get_params(deep=False)
    )


def make_arms(args):
    """Return one attack of the CPU's setting with each of its victims."""
    tiny, plain = args.size == "tiny", small_victim(args)
    attack = GradientMatchingAttack(
        surrogate=plain,
        n_ensemble=2 if tiny else 8,
        ensemble_stagger="full",
        max_iter=2 if tiny else 100,
        n_restarts=1,
        budget=0.05,
        eps=32 / 255,
        bounds=(0.0, 1.0),
        random_state=0,
    )
    victims = {
        PLAIN: plain,
        TRAINED: defended(plain, "gradient_matching", 2),
        EVASION: defended(plain, "evasion", 2),
    }
    return {title: (attack, victim) for title, victim in victims.items()}


def make_settings():
    """Return the published setting with each of the victims."""
    setting = published_setting("witches-brew-cifar10-resnet18")
    plain = setting.victim
    setting.attack.set_params(surrogate=plain)
    victims = {
        PLAIN: plain,
        TRAINED: defended(plain, "gradient_matching", 5),
        EVASION: defended(plain, "evasion", 5),
    }
    return {t: replace(setting, victim=victim) for t, victim in victims.items()}


def main(argv=None):
    """Measure what is missing, print the tables and the verdict."""
    defenses = ["none", "adversarial patches", "dp-sgd"]
    parser = backdoor_arguments(__doc__, defenses, ["badnets-1", "clean-75"], 24)
    add_counts(parser, 6, 1)
    args = parser.parse_args(argv)
    aimed = Namespace(**{**vars(args), "seeds": 1})  # its trials are targets
    runs, arms = Runs(args.out), make_arms(args)
    settings = make_settings() if args.full else {}
    if not args.show:
        run_backdoors(runs, args)
        if args.full:
            run_settings(runs, aimed, settings)
        else:
            run_small(runs, aimed, arms)
    show_backdoors(runs, args, {})
    print()
    named = run_keys(aimed, arms, settings)
    show_targeted(runs, named, {})
    parts = {}
    for poison in chosen_poisons(args):
        for other in ("none", "dp-sgd"):
            success, accuracy = (
                change(runs, args, "adversarial patches", figure, poison, other)
                for figure in ("success", "accuracy")
            )
            if success is None:
                continue
            print(
                f"adversarial patches against {poison}, beside {other}: success "
                f"{told(success)}, accuracy {told(accuracy, 3)}"
            )
            if other == "none":
                parts[f"{poison} weakened"] = sign(success) < 0
            else:
                parts[f"{poison}, more accurate than DP-SGD"] = sign(accuracy) > 0
    for other in (PLAIN, EVASION):
        gap = difference(runs, named, TRAINED, other)
        if gap is not None:
            print(f"{TRAINED}: success is {compared(gap, other)}")
            parts[f"{TRAINED}, below {other}"] = sign(gap) < 0
    conclude(parts)


if __name__ == "__main__":
    main()
