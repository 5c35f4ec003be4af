"""Dense feature maps of images: descriptors computed here, the inside of networks, and what an extractor is."""

from roireg.features.base import FeatureExtractor, available_extractors, register_extractor
from roireg.features.embedding import EmbeddingFeatures, FusedFeatures, embedding_features, fused_features
from roireg.features.encoder import EncoderFeatures, encoder_features, make_extractor
from roireg.features.field_of_view import field_of_view
from roireg.features.intensity import IntensityFeatures, foreground_mask, normalise_intensity
from roireg.features.mind import MindFeatures, mind_ssc
from roireg.features.orientation import orientation_channels

__all__ = [
    "EmbeddingFeatures",
    "EncoderFeatures",
    "FeatureExtractor",
    "FusedFeatures",
    "IntensityFeatures",
    "MindFeatures",
    "available_extractors",
    "embedding_features",
    "encoder_features",
    "field_of_view",
    "fused_features",
    "foreground_mask",
    "make_extractor",
    "mind_ssc",
    "normalise_intensity",
    "orientation_channels",
    "register_extractor",
]

register_extractor("mind", MindFeatures)
register_extractor("intensity", IntensityFeatures)
register_extractor("model", encoder_features)
register_extractor("embedding", embedding_features)
register_extractor("fused", fused_features)
