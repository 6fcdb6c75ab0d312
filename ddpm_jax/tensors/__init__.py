"""Files of tensors that other programs wrote: read without running what is in them."""
