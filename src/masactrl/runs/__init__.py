"""One request, one run: pictures made from prompts, pictures inverted and edited."""
