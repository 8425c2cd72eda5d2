"""Published editing methods, one file each."""

from masactrl.methods.masactrl import Form, MasaCtrl, mutual_self_attention

__all__ = ["Form", "MasaCtrl", "mutual_self_attention"]
