"""dollkit: explanations of chest X-ray classifiers as segmentation labels (DoLL).

Modules run one way along the paper: data -> classifiers -> explanations -> labels ->
pre-training -> fine-tuning -> report. Nothing imports a later stage.
"""

__version__ = "1.0.0"
