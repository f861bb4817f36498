"""Ids of a text's beginnings, such as of a conversation up to each of its turns, none encoded from its start.

An added token parts a text before anything else is done to it, so what stands in front of one, and the token itself,
have the same ids whatever follows. Of a beginning only what is behind its last such token is encoded, with that token.
"""

from bisect import bisect_right

from transformers import PreTrainedTokenizerBase

Places = list[tuple[int, int]]  # for each token, where it begins and ends in the text


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], Places]:
    """Ids of a text as it stands, nothing added, and the places they have in it."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoding["input_ids"], encoding["offset_mapping"]


class Beginnings:
    """Encodes texts, knowing the last one that was no beginning of the one before it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        # Those that are looked for in the text as it is written, and take no white space around them away.
        self._parting = {
            i for i, token in tokenizer.added_tokens_decoder.items()
            if not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        }  # fmt: skip
        self._text = ""
        self._ids: list[int] = []
        self._places: Places = []
        self._ends: list[int] = []  # where parting tokens end in the text
        self._numbers: list[int] = []  # which tokens these are

    def encode(self, text: str) -> tuple[list[int], Places]:
        """As `encode` gives them."""
        if text == self._text:
            return self._ids, self._places
        if self._text.startswith(text) and (found := bisect_right(self._ends, len(text))):
            number = self._numbers[found - 1]
            begin, end = self._places[number]
            ids, places = encode(self._tokenizer, text[begin:])
            if ids and ids[0] == self._ids[number] and tuple(places[0]) == (0, end - begin):
                shifted = [(begin + start, begin + stop) for start, stop in places]
                return self._ids[:number] + ids, self._places[:number] + shifted
        ids, places = encode(self._tokenizer, text)
        if not self._text.startswith(text):
            numbers = [i for i, token in enumerate(ids) if token in self._parting]
            self._text, self._ids, self._places = text, ids, places
            self._numbers, self._ends = numbers, [places[i][1] for i in numbers]
        return ids, places
