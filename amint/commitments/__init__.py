"""Commitments: what was promised before anyone asked.

At the start of training each sample of each role becomes one leaf of a Merkle tree, and the tree one *root* of 64
characters. Publish the root where it gets a date. Later the owner can prove to an auditor that one sample is under it::

    commitment = commit(members=train, external=others, calibration=held_out, roles=assign_roles(...))
    commitment.save("commitment.private.json")        # stays with the owner
    commitment.publish("commitment.json")             # root, counts, the draw of the roles
    prove(commitment, train[17][0]).save("proof.json")
    check_proof(read_public("commitment.json"), Proof.load("proof.json"), the_auditors_copy_of_the_sample)

A leaf is a hash of salt, role, place and the sample's own bytes. Salts derive from one secret (HMAC-SHA256), so that
a proof gives away its own salt and nothing by which other samples could be guessed.

What a proof shows: whoever published the root had, at that date, this very sample, bit for bit as the model is fed
it, and assigned it this role. That is all:

* It does not show that the sample was trained on. An owner can commit to data that he then does not use, or list
  members as calibration and train on them all the same. The MINT head and the other evidence speak about use.
* It does not show that everything trained on was committed. No proof says that a sample is *not* under a root, and a
  refusal to prove is no evidence either way.
* Another copy of the same picture (cropped, scaled or decoded otherwise, another dtype) is another sample.
* The date is that of the publication. A root shown for the first time together with a proof promises nothing, and
  of an owner who publishes many roots only the one he named beforehand counts.
* That :func:`check_roles` finds the recorded seed's draw shows that roles were not picked by hand, if neither the
  seed nor the order of the samples was chosen with the other in view: fix the order first, and let others, or a
  public lottery, name the seed. Roles that were drawn in groups can be drawn again only by whoever is given the
  groups. Samples in no role are not committed.
* Whoever gets the private file can test which samples are committed.
* Of what was used, only calibration samples are looked up in a commitment (:func:`use_of`): random augmentation makes
  other rows of the members.
"""

from amint.commitments.announcement import announced, check_same, promised
from amint.commitments.commitment import Commitment, commit
from amint.commitments.proofs import Proof, check_proof, prove
from amint.commitments.samples import sample_digest
from amint.commitments.statement import check_public, check_roles, read_public
from amint.commitments.use import check_use, commitment_sentence, use_of

__all__ = [
    "Commitment",
    "Proof",
    "announced",
    "check_proof",
    "check_public",
    "check_roles",
    "check_same",
    "check_use",
    "commit",
    "commitment_sentence",
    "promised",
    "prove",
    "read_public",
    "sample_digest",
    "use_of",
]
