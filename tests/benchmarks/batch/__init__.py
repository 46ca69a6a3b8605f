"""What a batch gains over one task after the other, and that kills cost it nothing but time."""
