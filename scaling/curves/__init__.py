"""Loss curves and the laws of the learning rate's schedule; numpy and scipy alone.

fit = fit_curve(step, lr, loss, warmup_steps=2160, peak_lr=3e-4)
loss, low, high = fit.predict(other_step, other_lr, level=0.9)
loss, low, high = fit.end(schedule_step, schedule_lr)
"""

from scaling.curves.curve import Curve, make_curve
from scaling.curves.fit import CurveFit, CurveForecast, fit_curve, fit_curves

__all__ = ["Curve", "CurveFit", "CurveForecast", "fit_curve", "fit_curves", "make_curve"]
