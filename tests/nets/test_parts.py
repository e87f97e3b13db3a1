"""Parts of the nets: attention, transformer blocks, embeddings, the classifier."""

import pytest
import torch

from gen_ray.errors import UserError
from gen_ray.nets import Classifier
from gen_ray.nets.attention import Attention, attend
from gen_ray.nets.embeddings import TimeEmbedding, grid_sinusoids, sinusoids
from gen_ray.nets.transformer import FinalLayer, TransformerBlock


def test_attend_equals_softmax_of_scaled_products_on_both_paths() -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 8)
    slow = torch.einsum("bhnm,bhmd->bhnd", (torch.einsum("bhnd,bhmd->bhnm", q, k) / 8**0.5).softmax(-1), v)
    torch.testing.assert_close(attend(q, k, v), slow)
    rounded = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), slow, rtol=0.05, atol=0.05)


def test_attention_without_positions_commutes_with_permutations() -> None:
    torch.manual_seed(0)
    attention = Attention(16, heads=2)
    torch.nn.init.normal_(attention.out.weight)
    x, order = torch.randn(2, 9, 16), torch.randperm(9)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order], rtol=1e-4, atol=1e-5)


def test_a_new_transformer_block_is_the_identity_and_a_new_final_layer_is_zero() -> None:
    x, condition = torch.randn(2, 5, 16), torch.randn(2, 8)
    assert torch.equal(TransformerBlock(16, 2, 8)(x, condition), x)
    assert not FinalLayer(16, 3, 8)(x, condition).any()


def test_a_new_transformer_block_can_learn_to_attend() -> None:
    """If gate and attention were both initialised to zero, neither would ever change."""
    block, x, condition = TransformerBlock(16, 2, 8), torch.randn(2, 5, 16), torch.randn(2, 8)
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (block(x, condition) - x.mean(1, keepdim=True)).square().sum().backward()
        optimizer.step()
    for name, parameter in block.attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_inner_products_of_sinusoids_depend_only_on_distance() -> None:
    at = sinusoids(torch.tensor([0.0, 3.0, 40.0, 43.0]), 32)
    torch.testing.assert_close(at[0] @ at[1], at[2] @ at[3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(at.square().sum(1), torch.full((4,), 16.0))


def test_every_position_of_a_grid_has_a_different_embedding() -> None:
    distances = torch.cdist(*[grid_sinusoids(28, 20, 32)[None]] * 2)[0] + torch.eye(560) * 9
    assert distances.min() > 0.05


def test_neighbouring_times_stay_distinct_under_autocast() -> None:
    torch.manual_seed(0)
    embed = TimeEmbedding(64)
    t = torch.tensor([0.500, 0.501])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = embed(t)
    assert torch.equal(rough, embed(t))
    assert (rough[0] - rough[1]).norm() > 0.01 * rough[0].norm()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 5, 9)])
def test_the_classifier_head_uses_the_published_features(shape: tuple[int, ...]) -> None:
    classifier = Classifier(shape, classes=10).eval()
    x = torch.randn(3, *shape)
    features = classifier.features(x)
    assert features.shape == (3, 64)
    torch.testing.assert_close(classifier.head(features.relu()), classifier(x))
    torch.testing.assert_close(classifier.features(x[1:2]), features[1:2], rtol=1e-4, atol=1e-5)


def test_the_classifier_distinguishes_stripes() -> None:
    torch.manual_seed(0)
    stripes = torch.ones(8, 8).cumsum(0) % 2 * 2 - 1
    labels = torch.randint(2, (64,))
    x = torch.where(labels.bool()[:, None, None], stripes, stripes.T)[:, None] + torch.randn(64, 1, 8, 8)
    classifier = Classifier((1, 8, 8), classes=2)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(x[:48]), labels[:48]).backward()
        optimizer.step()
    assert (classifier.eval()(x[48:]).argmax(1) == labels[48:]).float().mean() > 0.9


def test_the_classifier_refuses_text() -> None:
    with pytest.raises(UserError, match="images"):
        Classifier((64,), classes=2)
