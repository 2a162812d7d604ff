"""The loss of the segmenter: it compares logits with the targets of a crop."""

import torch
from torch import Tensor
from torch.nn import functional

DISTANCE_WEIGHT = 2.0  # weight of the distance error, which alone separates touching nuclei
CONTACT_RARITY = 4.0  # weight of pixels where nuclei meet, a few percent of all; others have 1


def segmentation_loss(
    logits: Tensor,
    nucleus: Tensor,
    distance: Tensor,
    valid: Tensor,
    weight: Tensor,
    borders: Tensor | None = None,
    contact: Tensor | None = None,
) -> Tensor:
    """Return cross-entropy and soft Dice of the mask plus a robust error of the border distance.

    Parameters
    ----------
    logits : Tensor of float, shape (B, 2 or 3, H, W)
        Nucleus, border distance and, if there are three, contact.
    nucleus : Tensor of float32, shape (B, H, W)
        1 in nuclei.
    distance : Tensor of float32, shape (B, H, W)
        Normalised border distance, 0..1.
    valid : Tensor of float32, shape (B, H, W)
        0 where pixels are ignored.
    weight : Tensor of float32, shape (B,)
        Importance of each patch.
    borders : Tensor of float32, shape (B,), optional
        0 for patches in which distance and contacts are not learnt.
    contact : Tensor of float32, shape (B, H, W), optional
        1 where two nuclei meet. It adds a cross-entropy of the third logit.

    Returns
    -------
    Tensor
        Scalar, the weighted mean over the patches.
    """
    each = segmentation_losses(logits, nucleus, distance, valid, borders, contact)
    return (each * weight).sum() / weight.sum().clamp(min=1e-6)


def segmentation_losses(
    logits: Tensor,
    nucleus: Tensor,
    distance: Tensor,
    valid: Tensor,
    borders: Tensor | None = None,
    contact: Tensor | None = None,
) -> Tensor:
    """Return the loss of every patch, shape (B,); parameters as those of ``segmentation_loss``."""
    logits = logits.float()
    counted = valid.sum(dim=(1, 2)).clamp(min=1)
    entropy = functional.binary_cross_entropy_with_logits(logits[:, 0], nucleus, reduction="none")
    entropy = (entropy * valid).sum(dim=(1, 2)) / counted
    probability = torch.sigmoid(logits[:, 0]) * valid
    shared = (probability * nucleus).sum(dim=(1, 2))
    # 1 is added to both sides of the ratio: without nuclei, Dice then measures false positives
    areas = probability.sum(dim=(1, 2)) + (nucleus * valid).sum(dim=(1, 2))
    dice = 1 - (2 * shared + 1) / (areas + 1)
    depth = torch.sigmoid(logits[:, 1])
    error = functional.smooth_l1_loss(depth, distance, beta=0.1, reduction="none")
    error = DISTANCE_WEIGHT * (error * valid).sum(dim=(1, 2)) / counted
    if contact is not None:
        rare = functional.binary_cross_entropy_with_logits(
            logits[:, 2], contact, reduction="none", pos_weight=logits.new_tensor(CONTACT_RARITY)
        )
        error = error + (rare * valid).sum(dim=(1, 2)) / counted
    if borders is not None:
        error = error * borders
    return entropy + dice + error
