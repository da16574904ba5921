"""One builder of nets, from five primitives; each net says what may be stacked or split."""
