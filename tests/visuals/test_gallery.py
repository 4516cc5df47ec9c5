import torch

from dinokit.visuals.gallery import neighbours


def test_the_order_is_by_cosine_not_length() -> None:
    gallery = torch.tensor([[0.1, 0.0], [5.0, 5.0], [0.0, 9.0]])
    assert neighbours(torch.tensor([[1.0, 0.2]]), gallery, own=[None], count=2).tolist() == [[0, 1]]


def test_the_query_itself_is_excluded_where_it_is_known() -> None:
    gallery = torch.eye(3) + 0.1
    found = neighbours(gallery[:2], gallery, own=[0, None], count=3)
    assert 0 not in found[0].tolist()
    assert found[1].tolist()[0] == 1
