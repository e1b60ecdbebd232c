"""Tables of gene names: the one that is shipped, and files of HGNC, MGI and Ensembl BioMart."""
