"""SIGReg's statistic: equal to the reference, and the properties a trainer relies on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from jepack.sigreg import NULL_MEAN, collapse_value, random_directions, sigreg

REFERENCE = load_file(Path(__file__).parents[1] / "data" / "sigreg.safetensors")
CASES = ["gaussian", "shifted", "shrunk", "low_rank", "heavy_tail", "collapsed"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make these tests minutes long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-300))


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradient(z: Tensor, directions: Tensor, **options: str) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    loss = sigreg(z, directions, **options)
    loss.backward()
    assert z.grad is not None
    return loss.detach(), z.grad


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_statistic_and_gradient_equal_the_reference(
    case: str, dtype: torch.dtype, bound: float
) -> None:
    z, directions = (REFERENCE[f"{case}.{name}"].to(dtype) for name in ("z", "directions"))
    value, grad = value_and_gradient(z, directions)
    assert value.dtype == grad.dtype == dtype
    assert relative_error(value, REFERENCE[f"{case}.statistic"][0]) < bound
    if case == "collapsed":  # a stationary point: nothing but rounding is left of the gradient
        assert float((grad.double() - REFERENCE["collapsed.grad"]).norm()) < bound
    else:
        assert relative_error(grad, REFERENCE[f"{case}.grad"]) < bound


@pytest.mark.parametrize("case", CASES)
def test_each_view_is_its_own_sample(case: str) -> None:
    z, directions = REFERENCE[f"{case}.z"], REFERENCE[f"{case}.directions"]
    views = torch.stack([sigreg(view[None], directions) for view in z])
    assert relative_error(views, REFERENCE[f"{case}.per_view"]) < 1e-10
    assert relative_error(sigreg(z, directions), views.mean()) < 1e-12


def test_flattening_the_views_would_hide_what_differs_between_them() -> None:
    """Two views, shifted to +1 and -1: each is far from N(0, I), their union is nearer."""
    z = gaussian(2, 256, 4, dtype=torch.float64) * 0.5
    z += torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None]
    directions = random_directions(4, 64, step=0)
    flattened = sigreg(z.reshape(1, 512, 4), directions) / 2  # of 512 images, so halve
    assert sigreg(z, directions) > 1.5 * flattened


# Images and slices below and beyond one tile (1024 x 64, for the gradient 64 x 1024).
@pytest.mark.parametrize(
    ("views", "images", "slices"),
    [
        (3, 7, 5),
        (2, 300, 257),
        (1, 1500, 600),
        (1, 200, 1500),
        pytest.param(1, 16_500, 300, marks=pytest.mark.slow),
    ],
)
def test_tiles_equal_the_plain_formula(views: int, images: int, slices: int) -> None:
    z, directions = gaussian(views, images, 6) * 0.8, random_directions(6, slices, step=1)
    value, grad = value_and_gradient(z, directions, implementation="tiles")
    wanted, wanted_grad = value_and_gradient(
        z.double(), directions.double(), implementation="plain"
    )
    assert relative_error(value, wanted) < 1e-5
    assert relative_error(grad, wanted_grad) < 1e-5


@pytest.mark.parametrize("knots", [3, 8, 33])
def test_any_number_of_knots_is_served(knots: int) -> None:
    z, directions = gaussian(1, 50, 4, dtype=torch.float64), random_directions(4, 9, step=1)
    tiles = sigreg(z, directions, knots=knots, implementation="tiles")
    assert relative_error(tiles, sigreg(z, directions, knots=knots, implementation="plain")) < 1e-12


def test_projections_far_out_keep_their_precision() -> None:
    """Angles of many turns: the statistic at mean 40 is still right."""
    z, directions = gaussian(1, 128, 4) + 40, random_directions(4, 32, step=1)
    value, grad = value_and_gradient(z, directions)
    wanted, wanted_grad = value_and_gradient(
        z.double(), directions.double(), implementation="plain"
    )
    assert relative_error(value, wanted) < 1e-5
    assert relative_error(grad, wanted_grad) < 1e-4  # float32 angles of 240 rad hold 1e-5


def test_memory_stays_far_below_images_times_slices_times_knots() -> None:
    """The largest tensor made on the way is the block of projections, not [B, M, T]."""
    images, slices = 2048, 1024
    z, directions = gaussian(1, images, 8).requires_grad_(), random_directions(8, slices, step=0)
    with LargestTensor() as largest:
        sigreg(z, directions).backward()
    assert 0 < largest.elements <= images * slices


class LargestTensor(TorchDispatchMode):
    """The number of elements in the largest storage that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(
                self.elements, result.untyped_storage().nbytes() // result.element_size()
            )
        return result


@pytest.mark.parametrize("images", [2, 16, 128, 512])
def test_the_floor_at_the_target_does_not_depend_on_the_number_of_images(images: int) -> None:
    """E[T] = sum of w (1 - phi^2), exactly, for any N; the standard deviation per slice is 0.95."""
    repeats = min(10_000, 4_000_000 // images)
    z = gaussian(repeats, images, 1, seed=images)
    value = float(sigreg(z, torch.ones(1, 1)))
    assert value == pytest.approx(NULL_MEAN, abs=4 * 1.0 / repeats**0.5)


def test_the_floor_constant_is_the_sum_it_stands_for() -> None:
    t = torch.linspace(0, 3, 17, dtype=torch.float64)
    phi = torch.exp(-t.square() / 2)
    expectation = 2 * torch.trapezoid(phi * (1 - phi.square()), t)
    assert float(expectation) == pytest.approx(NULL_MEAN, abs=1e-4)


@pytest.mark.parametrize("images", [8, 256, 512])
def test_full_collapse_costs_two_fifths_of_the_number_of_images(images: int) -> None:
    value = float(sigreg(torch.zeros(2, images, 8), random_directions(8, 32, step=0)))
    assert value == pytest.approx(0.402 * images, rel=1e-3)
    assert value == pytest.approx(collapse_value(images), rel=1e-6)


def test_directions_are_unit_columns_fresh_each_step_and_the_same_for_a_seed_and_step() -> None:
    first = random_directions(16, 64, step=7, seed=3)
    assert first.shape == (16, 64)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(64))
    torch.manual_seed(12345)  # the global generator has no part in it
    assert torch.equal(first, random_directions(16, 64, step=7, seed=3))
    others = [random_directions(16, 64, step=s, seed=r) for r, s in [(3, 8), (4, 7), (0, 0)]]
    assert not any(torch.equal(first, other) for other in others)


def test_autocast_does_not_lower_the_precision() -> None:
    z, directions = gaussian(2, 128, 16), random_directions(16, 64, step=0)
    outside, outside_grad = value_and_gradient(z, directions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, inside_grad = value_and_gradient(z, directions)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    assert torch.equal(inside_grad, outside_grad)


def test_half_precision_projections_are_raised_to_float32() -> None:
    z, directions = gaussian(1, 64, 8).bfloat16(), random_directions(8, 32, step=0)
    value, grad = value_and_gradient(z, directions)
    assert value.dtype == torch.float32
    assert grad.dtype == torch.bfloat16  # the gradient comes back as the leaf's type
    assert torch.equal(value, sigreg(z.float(), directions))


def test_the_order_of_the_images_does_not_matter() -> None:
    z, directions = gaussian(2, 300, 8, dtype=torch.float64), random_directions(8, 40, step=0)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    value, grad = value_and_gradient(z, directions)
    shuffled, shuffled_grad = value_and_gradient(z[:, order], directions)
    assert relative_error(shuffled, value) < 1e-12
    assert relative_error(shuffled_grad, grad[:, order]) < 1e-12


def test_gradient_is_the_derivative() -> None:
    z = gaussian(2, 5, 3, dtype=torch.float64).requires_grad_()
    directions = random_directions(3, 4, step=0).double()
    assert torch.autograd.gradcheck(lambda z: sigreg(z, directions), (z,))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("views", "images", "dimensions", "slices"),
    [(1, 512, 64, 512), (8, 256, 64, 1024), (3, 77, 20, 333), (2, 4096, 256, 1000), (1, 65, 7, 3)],
)
def test_fused_kernels_equal_the_plain_formula(
    views: int, images: int, dimensions: int, slices: int
) -> None:
    z = (gaussian(views, images, dimensions) * 0.8).cuda()
    directions = random_directions(dimensions, slices, step=1, device="cuda")
    value, grad = value_and_gradient(z, directions, implementation="triton")
    wanted, wanted_grad = value_and_gradient(
        z.double(), directions.double(), implementation="plain"
    )
    assert relative_error(value, wanted) < 1e-5
    assert relative_error(grad, wanted_grad) < 1e-5
    again, grad_again = value_and_gradient(z, directions, implementation="triton")
    assert torch.equal(again, value)
    assert torch.equal(grad_again, grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradient_is_the_derivative_on_a_gpu_too() -> None:
    z = gaussian(2, 5, 3, dtype=torch.float64).cuda().requires_grad_()
    directions = random_directions(3, 4, step=0, device="cuda").double()
    assert torch.autograd.gradcheck(lambda z: sigreg(z, directions), (z,))


def test_fused_kernels_are_right_where_triton_interprets_them(tmp_path: Path) -> None:
    """Triton's interpreter runs the kernels on the CPU; it must be asked for before the import."""
    pytest.importorskip("triton")
    script = tmp_path / "interpret.py"
    script.write_text(INTERPRETED)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    errors = [float(word) for word in result.stdout.split()]
    assert len(errors) == 6
    assert max(errors) < 1e-5


INTERPRETED = """
import torch
from jepack.sigreg import random_directions, sigreg

torch.set_num_threads(1)
for views, images, dimensions, slices in [(2, 40, 16, 70), (1, 130, 20, 33), (2, 33, 150, 64)]:
    z = torch.randn(views, images, dimensions, generator=torch.Generator().manual_seed(0)) * 0.8
    directions = random_directions(dimensions, slices, step=0)
    found = []
    for implementation, dtype in (("plain", torch.float64), ("triton", torch.float32)):
        leaf = z.to(dtype).requires_grad_()
        value = sigreg(leaf, directions, implementation=implementation)
        value.backward()
        found.append((value.double(), leaf.grad.double()))
    (wanted, wanted_grad), (value, grad) = found
    print(float(abs(value - wanted) / wanted), float((grad - wanted_grad).norm() / wanted_grad.norm()))
"""


def test_projections_without_a_view_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[V, B, D\], found \(8, 4\)"):
        sigreg(torch.zeros(8, 4), random_directions(4, 8, step=0))


IMAGES, FEATURES, DIMENSIONS = 64, 6, 5
WORLDS = (1, 2, 4)


def projections_loss(model: nn.Module, features: Tensor) -> Tensor:
    """Two views of the features through the model; SIGReg of what comes out."""
    z = torch.stack([model(features), model(features.flip(-1))])
    return sigreg(z, random_directions(DIMENSIONS, 32, step=5))


def linear_model(dtype: torch.dtype) -> nn.Linear:
    model = nn.Linear(FEATURES, DIMENSIONS, dtype=dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(gaussian(*parameter.shape, seed=seed, dtype=torch.float64) * 0.7)
    return model


def ddp_step(rank: int, world: int, dtype: torch.dtype) -> list[Tensor | None]:
    """Loss and parameter gradients of one rank's share of the batch, through real DDP."""
    share = IMAGES // world
    features = gaussian(IMAGES, FEATURES, seed=9, dtype=torch.float64).to(dtype)
    model = DistributedDataParallel(linear_model(dtype))
    loss = projections_loss(model, features[rank * share : (rank + 1) * share])
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


def ddp_rank(rank: int, folder: str) -> None:
    """This process's part in groups of 1, 2 and 4 ranks, one after the other."""
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank >= world:
            continue
        store = f"file://{folder}/store-{world}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
        for dtype in (torch.float32, torch.float64):
            torch.save(ddp_step(rank, world, dtype), Path(folder) / f"{world}-{rank}-{dtype}.pt")
        dist.barrier()  # a rank that leaves early aborts its peers' connections
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ddp_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    processes.spawn(ddp_rank, (str(folder),), max(WORLDS))
    return folder


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("world", WORLDS)
def test_ddp_ranks_give_the_loss_and_gradient_of_one_process(
    world: int, dtype: torch.dtype, bound: float, ddp_results: Path
) -> None:
    model = linear_model(dtype)
    features = gaussian(IMAGES, FEATURES, seed=9, dtype=torch.float64).to(dtype)
    loss = projections_loss(model, features)
    loss.backward()
    wanted = [loss.detach(), *(parameter.grad for parameter in model.parameters())]
    for rank in range(world):
        found = torch.load(ddp_results / f"{world}-{rank}-{dtype}.pt")
        for ours, whole in zip(found, wanted, strict=True):
            assert whole is not None
            assert relative_error(ours, whole) < bound
