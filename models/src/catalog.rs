//! The short names that come with kinfer. The data is `models/catalog/catalog.json`; its form and
//! the checks on it are [`kinfer_load::hub::Catalog`]'s.

use kinfer_load::hub::{Catalog, CatalogError};

/// The built-in catalogue.
///
/// # Errors
/// [`CatalogError`] when the embedded file does not parse, which a test rules out.
pub fn builtin() -> Result<Catalog, CatalogError> {
    Catalog::parse(include_str!("../catalog/catalog.json"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_embedded_catalogue_is_sound() {
        let catalog = super::builtin().unwrap();
        assert_eq!(catalog.find(&catalog.default).unwrap().name, "smollm2");
        for name in ["smollm2", "gemma3:270m"] {
            let entry = catalog.find(name).unwrap();
            assert!(
                entry.file.is_some() && entry.sources.len() == 2,
                "{name} has two sources of one pinned file"
            );
        }
    }
}
