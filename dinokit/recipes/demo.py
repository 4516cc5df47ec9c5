"""The demo: DINOv3 in miniature, minutes on two CPU cores."""

from dinokit.core.pixels import Pixels
from dinokit.core.schedule import constant, cosine, ramp
from dinokit.data import augment, masking, views
from dinokit.models import head, rope, vit
from dinokit.objectives import dino, ibot, koleo
from dinokit.training import optim
from dinokit.training.config import Data, Experiment, ObjectiveConfigs, Runtime, TrainConfig

STEPS = 2_000


def demo() -> TrainConfig:
    """Pretrain a small ViT on small pictures: Sinkhorn-Knopp, masked patches, KoLeo.

    Source: ours.
    Command: dinokit pretrain demo --data demo:fashion --out runs/demo
    Hardware: two CPU cores.
    Expected time: five minutes.
    Expected metric: see docs/log.md.
    """
    first, second, local = augment.intended()
    return TrainConfig(
        experiment=Experiment(
            recipe="demo",
            steps=STEPS,
            data=Data(
                views=views.Config(
                    global_size=28,
                    global_scale=(0.4, 1.0),
                    local_count=2,
                    local_size=21,
                    local_scale=(0.15, 0.5),
                    first=first,
                    second=second,
                    local=local,
                ),
                masks=masking.Config(),
                pixels=Pixels(size=28),
                batch_size=64,
            ),
            backbone=vit.Config(
                patch_size=7,
                dim=96,
                depth=4,
                heads=3,
                registers=0,
                ffn_hidden=192,
                layer_scale=0.1,
                rope=rope.Config(rescale=2.0),
            ),
            objectives=ObjectiveConfigs(
                {
                    "dino": dino.Config(
                        head=head.Config(hidden=256, bottleneck=64, prototypes=512, weight_norm="fixed"),
                        teacher_temperature=ramp(0.04, 0.07, steps=600),
                    ),
                    "ibot": ibot.Config(
                        head=head.Config(hidden=128, bottleneck=32, prototypes=256, weight_norm="fixed"),
                        teacher_temperature=ramp(0.04, 0.07, steps=600),
                    ),
                    "koleo": koleo.Config(weight=0.1),
                }
            ),
            optim=optim.Config(
                lr=cosine(2e-3, 2e-5, steps=STEPS, warmup=200),
                weight_decay=constant(0.04),
                clip=3.0,
            ),
            momentum=cosine(0.99, 1.0, steps=STEPS),
        ),
        runtime=Runtime(checkpoint_every=200),
    )
