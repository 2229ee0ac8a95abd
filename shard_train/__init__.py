"""Everything that changes a model's weights and needs gradients; nothing here sees what grades the result."""
