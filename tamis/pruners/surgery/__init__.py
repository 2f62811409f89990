"""The physical cut of a model and its optimizer, and how a cut model is read back; shared by every pruner."""
