"""Settings of the whole: a vision tower, a language model, and how they are joined."""

from transformers import Phi3Config, PretrainedConfig


class InternVLChatConfig(PretrainedConfig):
    """``vision_config`` is a dict of plain numbers, ``llm_config`` a language model's config."""

    model_type = "internvl_chat"

    def __init__(
        self,
        vision_config=None,
        llm_config=None,
        template="plain",
        select_layer=-1,
        downsample_ratio=0.5,
        force_image_size=448,
        **rest,
    ):
        """Nested settings may be given as they are read from ``config.json``."""
        super().__init__(**rest)
        self.vision_config = dict(vision_config or {})
        self.llm_config = (
            llm_config
            if isinstance(llm_config, PretrainedConfig)
            else Phi3Config(**(llm_config or {}))
        )
        self.template = template
        self.select_layer = select_layer
        self.downsample_ratio = downsample_ratio
        self.force_image_size = force_image_size

    def to_dict(self):
        """Plain values, for ``config.json``."""
        return {**super().to_dict(), "llm_config": self.llm_config.to_dict()}
