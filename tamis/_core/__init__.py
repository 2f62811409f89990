"""What all floors share: errors, checks, keyed randomness, collectives, the policy artefact."""
