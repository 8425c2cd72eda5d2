"""Pictures as files, tensors, sheets and figures; knows no model."""
