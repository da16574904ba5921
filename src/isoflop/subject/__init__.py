"""Anything that can be scored, sampled or asked: a net with its tokenizer, wherever its weights came from.

    opening         a run folder, one of its checkpoints, or a folder of Hugging Face weights -> a subject
    text            text to token ids and back, as the model was trained to see them; chat templates
    language_model  log-likelihoods of continuations and generated text, in batches

What is asked, and what an answer is worth, is the matter of `isoflop.measure`.
"""
