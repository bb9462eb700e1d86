//! Images and indexes: what is published, how it is found and how it is verified.
