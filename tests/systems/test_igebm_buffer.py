"""The replay buffer of an IGEBM in its checkpoints, and the classes of which it draws."""

from dataclasses import replace

import pytest
import tiny
import torch
from shell import same
from tiny import one_thread  # noqa: F401
from tiny_learners import SYSTEMS

from hatebm.data import Images, to_bytes


def trained(iterations: int = 3, **settings):
    learner = SYSTEMS["conditional" if settings.pop("conditional", True) else "igebm"](**settings)
    for _ in range(iterations):
        learner.advance(tiny.images())
    return learner


def copied(named):
    return {name: tensor.clone() for name, tensor in named.items()}


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize(("iterations", "filled"), [(0, 0), (2, 8), (3, 10)])
def test_a_checkpoint_holds_the_filled_slots_and_where_the_ring_goes_on(conditional, iterations, filled):
    learner = trained(iterations, conditional=conditional)
    held = {name: tensor for name, tensor in learner.tensors().items() if name.startswith("buffer.")}
    kinds = {
        "buffer.seen": (torch.int64, ()),
        "buffer.states": (torch.uint8, (filled, 1, 8, 8)),
        "buffer.labels": (torch.int64, (filled,)),
    }
    if not conditional:
        del kinds["buffer.labels"]
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in held.items()} == kinds
    assert held["buffer.seen"] == 4 * iterations == learner.buffer.seen


DAMAGE = {
    "a tensor is missing": (lambda t: t.pop("buffer.states"), r"the tensor buffer\.states is missing"),
    "labels are missing": (lambda t: t.pop("buffer.labels"), r"the tensor buffer\.labels is missing"),
    "one is unknown": (lambda t: t.update({"buffer.old": t["buffer.seen"]}), r"the tensor buffer\.old is unknown"),
    "floats": (lambda t: t.update({"buffer.states": t["buffer.states"].float()}), r"buffer\.states must be a uint8"),
    "no shape": (lambda t: t.update({"buffer.states": t["buffer.seen"]}), r"the tensor buffer\.\w+ must be"),
    "a label too few": (lambda t: t.update({"buffer.labels": t["buffer.labels"][1:]}), r"buffer\.labels must be"),
    "another size": (lambda t: t.update({"buffer.states": t["buffer.states"][..., 1:]}), r"buffer\.states must be"),
    "no class": (lambda t: t["buffer.labels"][3].fill_(3), r"buffer\.labels must hold classes from 0 to 2"),
    "less than no class": (lambda t: t["buffer.labels"][3].fill_(-1), r"buffer\.labels must hold classes"),
    "more seen than held": (lambda t: t["buffer.seen"].fill_(9), "states must be"),
    "less than none seen": (lambda t: t["buffer.seen"].fill_(-1), "seen must be an integer"),
    "weights": (lambda t: t.pop("energy.head.weight"), r"the tensor energy\.head\.weight is missing"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_buffer_that_does_not_fit_is_refused_and_nothing_changes(damage, message):
    saved, learner = copied(trained(2).tensors()), trained(3, seed=1)
    before = copied(learner.tensors())
    damage(saved)
    with pytest.raises(ValueError, match=message):
        learner.restore(saved, 2)
    assert learner.iteration == 3
    assert same(learner.tensors(), before)


def test_a_buffer_without_labels_is_none_of_a_conditional_one():
    saved = copied(trained(2, conditional=False).tensors())
    with pytest.raises(ValueError, match=r"buffer\.labels is missing"):
        trained(0).restore(saved, 2)


def test_a_chain_is_of_the_class_that_its_id_finds_among_the_labels():
    learner = trained()
    each = [learner.chain([c], seed=4, labels=[c % 3]).run(2) for c in range(5)]
    in_turn, given = learner.chain(range(5), seed=4).run(2), learner.chain(range(5), seed=4, labels=[0, 1, 2]).run(2)
    assert torch.equal(in_turn, given)
    torch.testing.assert_close(in_turn, torch.cat(each), rtol=1e-4, atol=1e-4)
    later = learner.chain([4, 5], seed=4, labels=[2, 0, 1]).run(2)
    alone = [learner.chain([c], seed=4, labels=[label]).run(2) for c, label in ((4, 0), (5, 1))]
    torch.testing.assert_close(later, torch.cat(alone), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(later, learner.chain([4, 5], seed=4).run(2), atol=1e-3)
    batched = torch.cat([seen[0] for seen in learner.batches(5, [2], seed=4, labels=[2, 0])])
    assert torch.equal(batched, learner.chain(range(5), seed=4, labels=[2, 0]).run(2))
    assert torch.equal(batched, learner.sample(5, [2], seed=4, labels=torch.tensor([2, 0]))[0])


def test_classes_are_drawn_where_no_gradient_is_wanted():
    learner = trained()
    wanted, scores = learner.sample(4, [2], seed=4), learner.scores(tiny.images().train)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert torch.equal(learner.sample(4, [2], seed=4)[0], wanted[0])
            assert same(learner.scores(tiny.images().train), scores)


@pytest.mark.parametrize("labels", [[3], [-1], [], [0.5]])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(ValueError, match="chain: labels must be classes from 0 to 2, got"):
        trained(0).chain(range(2), seed=0, labels=labels)


def test_labels_without_classes_are_refused():
    with pytest.raises(ValueError, match="chain: labels must be left out"):
        trained(0, conditional=False).chain(range(2), seed=0, labels=[0])


def test_samples_show_the_buffer_and_tell_of_which_classes_they_are():
    learner, images = trained(), tiny.images()
    stages = ["2 Langevin steps", "4 Langevin steps"]
    drawn, labels = learner.samples(images, 40, seed=1), learner.sample_labels(40)
    assert list(drawn) == list(labels) == [*stages, "replay buffer"]
    assert same(drawn, learner.samples(images, 40, seed=1))
    assert all(torch.equal(labels[title], torch.arange(40) % 3) for title in stages)
    kept = learner.tensors()
    assert torch.equal(to_bytes(drawn["replay buffer"]), kept["buffer.states"].repeat_interleave(4, 0))
    assert torch.equal(labels["replay buffer"], kept["buffer.labels"].repeat_interleave(4))
    few = learner.samples(images, 5, seed=1)["replay buffer"], learner.sample_labels(5)["replay buffer"]
    assert torch.equal(to_bytes(few[0]), kept["buffer.states"][::2])
    assert torch.equal(few[1], kept["buffer.labels"][::2])
    assert list(trained(0).samples(images, 2, seed=1)) == list(trained(0).sample_labels(2)) == stages
    assert trained(conditional=False).sample_labels(2) == {}


def test_labels_may_have_a_gap():
    images = replace(tiny.images(), train_labels=torch.arange(10) % 2 * 2)
    learner = SYSTEMS["conditional"]()
    for _ in range(3):
        learner.advance(images)
    assert set(learner.tensors()["buffer.labels"].tolist()) == {0, 2}
    assert learner.sample(3, [2], seed=0)[0].isfinite().all()
    assert (images.classes, Images(images.train, images.held_out).classes) == (3, 0)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"langevin_steps": 20, "sample_steps": 400}, [10, 20, 40, 60, 100, 140, 200, 300, 400, 600, 800]),
        ({"langevin_steps": 20, "sample_steps": 300}, [10, 20, 40, 60, 100, 140, 200, 300, 400, 600]),
        ({"langevin_steps": 3, "sample_steps": 500}, [2, 3, 6, 9, 15, 21, 30, 45, 60, 90, 120, 500, 1000]),
        ({"langevin_steps": 1, "sample_steps": 2}, [1, 2, 3, 4]),
        ({"langevin_steps": 10, "sample_steps": 4}, [4, 5, 8]),
    ],
)
def test_quality_is_judged_at_steps_that_grow_by_factors_past_the_last_stage(settings, steps):
    learner = trained(0)
    learner.config = replace(learner.config, **settings)
    assert learner.quality_steps() == steps
    assert learner.trained_steps == settings["langevin_steps"]
