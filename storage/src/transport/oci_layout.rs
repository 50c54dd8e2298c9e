//! OCI image layouts, as directories and as archives.
