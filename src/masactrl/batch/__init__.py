"""Many edits from one manifest: one machine or many, nothing lost, nothing made twice."""
