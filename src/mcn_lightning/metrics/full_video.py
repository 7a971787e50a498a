"""Retrieval of whole videos by the captions of their clips, as on YouCook2. Ties count with their expected value.

Letters: N clips; Q captions, one a clip or more; V videos; D embedding width; B captions or videos at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mcn_lightning.metrics.checks import check_arrays
from mcn_lightning.metrics.retrieval import expected_ranks, retrieval_metrics
from mcn_lightning.metrics.ties import (
    best_of_group,
    check_ks,
    distinct_rows,
    dot_products,
    expected_hits,
    expected_members,
    expected_rank,
    rows_at_once,
)

# votes that differ by less are equal: shares of a vote, such as three times 1/3, do not sum exactly
VOTE_TOLERANCE = 2.0**-32
# most scores ranked and counted at a time, so that masks and shares of votes take little memory
MAX_BLOCK_SCORES = 2**20


@torch.no_grad()
def full_video_metrics(
    queries: Tensor,
    gallery: Tensor,
    videos: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
    clips: Tensor | None = None,
) -> dict[str, Tensor]:
    """Evaluate retrieval of clips and whole videos from single captions, and from all captions of a video.

    The settings are those of AVLnet (Rouditchenko et al., 2020) and MCN (Chen et al., ICCV 2021) on YouCook2, with
    dot-product scores. Query i is the caption of clip i, unless ``clips`` gives its clip.

    * ``caption_clip``: a caption ranks the N clips, as in `RetrievalRecall`.
    * ``caption_video``: a caption ranks the V videos by the best score among the clips of each.
    * ``caption_video_by_clips``: how the released code computes this. A hit at k is a clip of the true video among the
      k clips with the highest scores. These come from at most k videos, so it is never above ``caption_video`` unless
      scores tie. Its rank is that of the best clip of the true video among all clips.
    * ``captions_video``: all captions of a video rank the videos by the best clip score of each, averaged over the
      captions.
    * ``video_votes``: each caption of a video votes for its first k videos. A hit is the true video among the k videos
      with the most votes.
    * ``clip_votes``: each caption votes for the videos of its first k clips, with one vote for each clip.

    The first three are averaged over captions, the others over videos.

    Ties do not help. A rank is the mean over all orders of the candidates that tie. In votes, candidates that tie for
    the last places of a caption share the votes for these places. A video that ties for the last of the k places counts
    with its probability to get one. A video without votes is never found. In the released code the sorting algorithm
    decides both.

    The working memory is bounded: ``chunk * N`` scores, never more than 2**26 (256 MB in float32), and at most 256 MB
    for the sums of a block of videos. Both are small for the 3,350 clips and 430 videos of YouCook2.

    Args:
        queries: embeddings of the captions, ``(Q, D)``.
        gallery: embeddings of the clips, ``(N, D)``.
        videos: video of each clip, ``(N,)`` int64; any numbers.
        ks: cut-offs.
        chunk: most captions scored at a time.
        clips: clip of each caption, ``(Q,)`` int64. By default Q is N, and caption i belongs to clip i.

    Returns:
        0-d float32 tensors ``<setting>/R@k`` in per cent for each setting and k; ``<setting>/median_rank`` and
        ``<setting>/mean_rank`` for the first four.

    Raises:
        ValueError: if the shapes do not fit, there is no clip, an embedding or a score is not finite, or a cut-off is
            below 1.
    """
    check_ks(ks)
    letter = "N" if clips is None else "Q"
    clips = torch.arange(len(queries), device=queries.device) if clips is None else clips
    check_arrays(
        queries=(queries, f"({letter}, D)"),
        clips=(clips, f"({letter},) int64"),
        gallery=(gallery, "(N, D)"),
        videos=(videos, "(N,) int64"),
    )
    clip_ranks = expected_ranks(queries, gallery, clips, chunk)
    # numbers 0 to V - 1, which index rows of tables
    numbers, videos = torch.unique(videos, return_inverse=True)
    targets = videos[clips]
    # its rank by all captions would be a mean over none
    if len(numbers) > len(targets.unique()):
        raise ValueError("expected a caption for at least one clip of each video")
    dtype = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
    # equal clips are scored once, so that they tie to the last bit
    rows, column, _ = distinct_rows(gallery.to(dtype))
    # a block of videos keeps, for each of V candidates, the sum of the best scores and two kinds of votes for each k
    num_sums = 1 + 2 * len(ks)
    blocks = torch.arange(len(numbers), device=videos.device).split(rows_at_once(chunk, 2 * num_sums * len(numbers)))
    by_caption, by_video = [], []
    for block in blocks:
        captions = ((targets >= block[0]) & (targets <= block[-1])).nonzero()[:, 0]
        sums = queries.new_zeros(num_sums, len(block), len(numbers), dtype=torch.float64)
        for part in captions.split(rows_at_once(chunk, len(gallery))):
            scores = dot_products(queries[part], rows)
            size = max(1, MAX_BLOCK_SCORES // len(videos))
            for piece, own in zip(scores.split(size), targets[part].split(size), strict=True):
                by_caption.append(_rank_and_vote(piece[:, column], videos, own, sums, block[0], ks))
            del scores  # before the next block is scored: two blocks at once would double the memory
        by_video.append(_rank_of_sums(sums, block, ks))
    video_ranks, first_clip_ranks = torch.cat(by_caption).unbind(dim=1)
    together = torch.cat(by_video)
    ranks = {
        "caption_clip": clip_ranks,
        "caption_video": video_ranks,
        "caption_video_by_clips": first_clip_ranks,
        "captions_video": together[:, 0],
    }
    result = {f"{name}/{key}": value for name in ranks for key, value in retrieval_metrics(ranks[name], ks).items()}
    hits = 100 * together[:, 1:].mean(dim=0).float()
    names = [f"{name}/R@{k}" for name in ("video_votes", "clip_votes") for k in ks]
    return result | dict(zip(names, hits.unbind(), strict=True))


def _rank_and_vote(
    scores: Tensor, videos: Tensor, own: Tensor, sums: Tensor, first: Tensor, ks: Sequence[int]
) -> Tensor:
    """Compute the ranks of each caption, and add its scores and votes to the sums of its video.

    Args:
        scores: ``(B, N)``.
        videos: of the clips, ``(N,)``, 0 to V - 1.
        own: video of each caption, ``(B,)``.
        sums: the best scores, and the votes of the two kinds for each k, ``(1 + 2K, videos of the block, V)`` float64,
            changed in place. Scores are float32 with few exponents, so their float64 sums are exact in any order.
        first: first video of the block.
        ks: K cut-offs.

    Returns:
        Rank of the true video, and of its best clip among all clips, ``(B, 2)`` float64.
    """
    index = videos.expand(len(scores), len(videos))
    # scatter_reduce_ takes the best clip of each video without a sort by video
    best = scores.new_full((len(scores), sums.shape[2]), -torch.inf).scatter_reduce_(1, index, scores, "amax")
    row = own - first
    sums[0].index_add_(0, row, best.double())
    for position, k in enumerate(ks):
        sums[1 + position].index_add_(0, row, expected_members(best, k))
        votes = torch.zeros_like(best, dtype=torch.float64).scatter_add_(1, index, expected_members(scores, k))
        sums[1 + len(ks) + position].index_add_(0, row, votes)
    ranks = expected_rank(best, best.gather(1, own[:, None])[:, 0])
    higher, tied, own_tied = best_of_group(scores, own[:, None] == videos)
    # expected place of the first of `own_tied` among `tied` items in random order
    return torch.stack([ranks, higher + (tied + 1) / (own_tied + 1).double()], dim=1)


def _rank_of_sums(sums: Tensor, own: Tensor, ks: Sequence[int]) -> Tensor:
    """Return the rank by all captions, then the hits by both kinds of votes at each k, ``(videos, 1 + 2K)`` float64."""
    ranks = expected_rank(sums[0], sums[0].gather(1, own[:, None])[:, 0])
    hits = []
    for votes, k in zip(sums[1:], [*ks, *ks], strict=True):
        # whole numbers of the tolerance: votes that are equal but for rounding then tie
        whole = (votes / VOTE_TOLERANCE).round()
        chosen = whole.gather(1, own[:, None])[:, 0] > 0
        hits.append(expected_hits(whole, own, [k])[:, 0] * chosen)
    return torch.stack([ranks, *hits], dim=1)
