"""The helper process that ships journals: follow, batch, back off, checkpoint, recover."""
