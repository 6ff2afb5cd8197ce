"""Neural processes and martingale posteriors: one network for a stream of regression tasks."""

from probnet.neural_process.autoregressive import Autoregressive
from probnet.neural_process.base import NeuralProcess
from probnet.neural_process.bootstrap import BANP, BNP
from probnet.neural_process.conditional import CANP, CNP
from probnet.neural_process.conditional_copula import ConditionalCopula
from probnet.neural_process.convolutional import ConvCNP
from probnet.neural_process.copula import Copula
from probnet.neural_process.evaluation import Evaluation
from probnet.neural_process.gp_rule import GPRule
from probnet.neural_process.latent import ANP, NP
from probnet.neural_process.martingale import MPANP, MPNP
from probnet.neural_process.martingale_posterior import MartingalePosterior
from probnet.neural_process.oracle import Oracle, oracle
from probnet.neural_process.oracle_law import OraclePredictive
from probnet.neural_process.posterior import NeuralProcessPosterior
from probnet.neural_process.pretrained import load_pretrained, train_pretrained
from probnet.neural_process.resampling import PredictiveResampler
from probnet.neural_process.rules import CallableRule, NormalMean, PredictiveRule
from probnet.neural_process.trained import TrainedProcess
from probnet.neural_process.transformer import TNP

__all__ = [
    "ANP",
    "BANP",
    "BNP",
    "CANP",
    "CNP",
    "MPANP",
    "MPNP",
    "NP",
    "TNP",
    "Autoregressive",
    "CallableRule",
    "ConditionalCopula",
    "ConvCNP",
    "Copula",
    "Evaluation",
    "GPRule",
    "MartingalePosterior",
    "NeuralProcess",
    "NeuralProcessPosterior",
    "NormalMean",
    "Oracle",
    "OraclePredictive",
    "PredictiveResampler",
    "PredictiveRule",
    "TrainedProcess",
    "load_pretrained",
    "oracle",
    "train_pretrained",
]
