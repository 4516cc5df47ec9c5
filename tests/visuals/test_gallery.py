import torch

from dinokit.visuals.gallery import nearest


def test_the_order_is_by_cosine_not_length() -> None:
    gallery = torch.tensor([[0.1, 0.0], [5.0, 5.0], [0.0, 9.0]])
    assert nearest(torch.tensor([[1.0, 0.2]]), gallery, count=2).tolist() == [[0, 1]]


def test_the_query_itself_is_excluded_where_it_is_known() -> None:
    gallery = torch.eye(3) + 0.1
    found = nearest(gallery[:2], gallery, count=3, exclude=torch.tensor([0, -1]))
    assert 0 not in found[0].tolist()
    assert found[1].tolist()[0] == 1
