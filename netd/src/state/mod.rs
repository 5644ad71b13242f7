//! Intent in, steps out: desired, observed, plan, apply.
