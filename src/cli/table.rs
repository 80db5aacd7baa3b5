//! Aligned columns.

/// Rows under a header, each column as wide as its widest cell. Widths count characters.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut add = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(cell);
            let padding = width.saturating_sub(cell.chars().count()) + 2;
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    add(&mut header.iter().copied());
    for row in rows {
        add(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["1".to_owned(), "grün".to_owned(), "x".to_owned()], vec!["100".into(), "a".into(), String::new()]];
        assert_eq!(table(&["ID", "NAME", "Z"], &rows), "ID   NAME  Z\n1    grün  x\n100  a\n");
    }
}
