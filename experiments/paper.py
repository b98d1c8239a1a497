"""The paper's figures: accuracies on the target, as its tables print them."""

__all__ = [
    "DATA_SETS",
    "OFFICE31",
    "OFFICE31_DIRECTIONS",
    "OFFICE31_OWN",
    "OFFICE31_SPLITS",
    "PUBLISHED",
    "SEMI_SUPERVISED",
]

DATA_SETS = {  # as the paper prints their names
    "digits": "digits",
    "digits_m": "digits-M",
    "mnist": "MNIST",
    "mnist_m": "MNIST-M",
    "svhn": "SVHN",
    "syn_numbers": "SYN NUMBERS",
    "syn_numbers_published": "SYN NUMBERS (published)",
    "syn_signs": "SYN SIGNS",
    "gtsrb": "GTSRB",
    "usps": "USPS",
    "office31/amazon": "Amazon",
    "office31/dslr": "DSLR",
    "office31/webcam": "Webcam",
}

# Tables 1 and 2, and Table 1 of the first preprint (arXiv:1409.7495v1); None where that has no
# figure of the same protocol. SA's components are picked on the target's test accuracy.
_METHODS = ("source-only", "sa-oracle", "dann", "train-on-target")
_TABLE_1 = {
    "mnist_mnist_m": ((0.5225, 0.5749), (0.5690, 0.6078), (0.7666, 0.8149), (0.9596, 0.9891)),
    "syn_numbers_svhn": ((0.8674, 0.8665), (0.8644, 0.8672), (0.9109, 0.9048), (0.9220, 0.9244)),
    "svhn_mnist": ((0.5490, 0.5919), (0.5932, 0.6157), (0.7385, 0.7107), (0.9942, 0.9951)),
    "syn_signs_gtsrb": ((0.7900, 0.7400), (0.8165, 0.7635), (0.8865, 0.8866), (0.9980, 0.9987)),
}
PUBLISHED = {
    **{row: dict(zip(_METHODS, figures, strict=True)) for row, figures in _TABLE_1.items()},
    "office31_amazon_webcam": {"source-only": (0.642, None), "dann": (0.730, None)},
    "office31_dslr_webcam": {"source-only": (0.961, None), "dann": (0.964, None)},
    "office31_webcam_dslr": {"source-only": (0.978, None), "dann": (0.992, None)},
}
PUBLISHED["syn_numbers_published_svhn"] = PUBLISHED["syn_numbers_svhn"]  # of the same images

# Table 2, Office-31, by the methods' names on the command line: the name that the paper prints, and
# for each direction the ICML paper's figure, and that of JMLR where it is another one.
OFFICE31_DIRECTIONS = ("A→W", "D→W", "W→D")
OFFICE31 = {
    "gfk": ("GFK(PLS, PCA)", ((0.214, 0.197), (0.691, 0.497), (0.650, 0.663))),
    "sa": ("SA*", ((0.450,), (0.648,), (0.699,))),
    "dlid": ("DLID", ((0.519,), (0.782,), (0.899,))),
    "ddc": ("DDC", ((0.605, 0.618), (0.948, 0.950), (0.985,))),
    "dan": ("DAN", ((0.645, 0.685), (0.952, 0.960), (0.986, 0.990))),
    "source-only": ("source-only", ((0.642,), (0.961,), (0.978,))),
    "dann": ("DANN", ((0.730,), (0.964,), (0.992,))),
}
OFFICE31_OWN = ("source-only", "dann")  # which the paper has measured itself
OFFICE31_SPLITS = ((0.673, 0.017), (0.940, 0.008), (0.937, 0.010))  # preprint: mean and sd of 5

# The semi-supervised experiment is a plot, without figures in print: its legend.
SEMI_SUPERVISED = {
    "few-labels": "Real only",
    "source-only": "Syn only",
    "dann": "Syn adapted",
    "source-and-few-labels": "Syn + Real",
    "dann-and-few-labels": "Syn + Real adapted",
}
