"""Analysis of references: real images whose tissue the synthetic patches imitate."""
