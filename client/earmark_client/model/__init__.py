"""The labeler: a frozen audio encoder, a sentence encoder and the small head between them."""
