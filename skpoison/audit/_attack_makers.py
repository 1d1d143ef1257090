"""What the entries of attacks make, each for the data and victims at hand."""


def flips(strategy, context):
    from skpoison.attacks import LabelFlipAttack

    return LabelFlipAttack(strategy)


def trigger(context):
    from skpoison.attacks import PatchTrigger

    if context.image_shape is None:
        return None
    size = max(1, min(3, min(context.image_shape[1:]) // 3))
    return PatchTrigger(size=size, input_shape=context.image_shape)


def backdoor(context):
    from skpoison.attacks import BackdoorAttack

    return BackdoorAttack(trigger(context))


def clean_label(context):
    from skpoison.attacks import CleanLabelBackdoorAttack

    return CleanLabelBackdoorAttack(trigger(context))


def crafted(name, context, **params):
    """Make an attack that is crafted on networks, the victim's if it is one."""
    from skpoison import attacks

    if context.neural:
        params["surrogate"] = "victim"
    return getattr(attacks, name)(**params)


def crafted_backdoor(name, context, **params):
    return crafted(name, context, trigger=trigger(context), **params)


def sleeper_agent(context):
    from skpoison.attacks import RandomPatchTrigger

    trigger = None
    if context.image_shape is not None:
        trigger = RandomPatchTrigger(input_shape=context.image_shape)
    params = {"max_iter": 60, "retrain_every": 30}
    return crafted("SleeperAgentAttack", context, trigger=trigger, **params)


def watermark(context):
    from skpoison.attacks import WatermarkAttack

    return WatermarkAttack()


def blend(context):
    from skpoison.attacks import BlendBackdoor

    return BlendBackdoor()


def sinusoid(context):
    from skpoison.attacks import SinusoidBackdoor

    return SinusoidBackdoor(input_shape=context.image_shape)


def all_to_all(context):
    from skpoison.attacks import AllToAllBackdoor

    return AllToAllBackdoor(trigger(context))


def evasion(name, context):
    from skpoison import evasion
    from skpoison.audit._test_time import EvasionProbe

    return EvasionProbe(getattr(evasion, name)())


def added_rows(context):
    from skpoison.attacks import BilevelPoisoningAttack

    return BilevelPoisoningAttack("victim")


def back_gradient(context):
    from skpoison.attacks import BackGradientAttack

    return BackGradientAttack("victim")


def any_added_rows(context):
    regression = context.task == "regression"
    return regression_rows(context) if regression else added_rows(context)


def influence_flips(context):
    from skpoison.attacks import LabelFlipAttack

    return LabelFlipAttack("influence", surrogate="victim")


def influence_edits(context):
    from skpoison.attacks import InfluenceAttack

    return InfluenceAttack("victim")


def mirrored_rows(context):
    from skpoison.attacks import RegressionPoisoningAttack

    return RegressionPoisoningAttack(init="inv_flip", max_iter=0)


def corner_rows(context):
    from skpoison.attacks import RegressionPoisoningAttack

    return RegressionPoisoningAttack("victim", init="statp", max_iter=0)


def regression_rows(context):
    from skpoison.attacks import RegressionPoisoningAttack

    return RegressionPoisoningAttack("victim")
