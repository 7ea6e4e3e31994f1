from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Progress, Watcher
from core.method import transform
from core.model.anatomy import read_anatomy
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.pruning.pruned import Pruned
from core.model.pruning.vocabulary import ids_that_stay, keep_rows, order_of_going, shortened, tokenizer_json, why_not
from core.report import LayerRow


@transform("unused_tokens", label="Unused tokens", structures=("vocabulary",), place="criterion/vocabulary")
def unused_tokens(loaded: LoadedModel, share: float, inputs: Callable[[], Tensor], watcher: Watcher) -> Pruned:
    """Keep the tokens that a text uses: the rows of embedding and head that the calibration text needs least go, and the tokenizer forgets them.

    Of V rows round(share * V) go, fewest uses first; of one count: the token whose merge comes last. Uses are those in the calibration ids, and a
    token counts at least as often as any token that is made of it, so parts of what stays stay. Special and added tokens, letters and bytes (all
    that no merge makes) stay always. A merge goes with its result, and ids are counted anew. A text in which no removed token occurs is cut as before,
    and the model gives the tokens that are left the logits that it gave them; any other text is cut into smaller tokens, and can still be written.

    Intuition: a model made for all texts carries rows for words that yours never say; in a small model embeddings are a fifth of it or more.
    When it lies: the calibration text is not the text you will meet; a rare word now takes several tokens, which the model was hardly trained on. Nor
    is a perplexity a token comparable: its tokens differ, and its softmax runs over fewer, so it falls a little even where nothing is lost.
    """
    said = tokenizer_json(loaded.tokenizer)
    if why := why_not(loaded):
        raise ModelError(why, "Choose a structure that this model has.")
    rows = loaded.model.get_input_embeddings().num_embeddings
    counts = torch.bincount(inputs().flatten().cpu(), minlength=rows)
    going = order_of_going(said, rows, counts, ids_that_stay(loaded, said))
    asked = nearest(share * rows)
    gone = set(going[:asked])
    kept = [row for row in range(rows) if row not in gone]
    tokenizer = shortened(loaded.tokenizer, said, {old: new for new, old in enumerate(kept)})
    keep_rows(loaded.model, kept)
    used = int(counts[sorted(gone)].sum()) if gone else 0
    if len(gone) < asked:
        watcher.say(
            Progress("prune: unused_tokens", kind="note", text=f"{len(gone):,} of {asked:,} rows went: the others have to stay.")
        )
    after = replace(loaded, anatomy=read_anatomy(loaded.model), tokenizer=tokenizer)
    row = LayerRow(
        loaded.anatomy.embeddings[0], None, (rows, loaded.anatomy.hidden), rows * loaded.anatomy.hidden, share, len(gone) / rows
    )
    reached = {"rows_before": rows, "rows_after": len(kept), "sparsity": len(gone) / rows, "uses_removed": used}
    return Pruned(after, rows=(row,), scores={"vocabulary": counts}, said=reached)
