//! A document before it is text: elements that can be taken apart and put together wrongly.

/// An element with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name, with the prefix of its namespace.
    pub name: String,
    /// Attributes in order, declarations of namespaces among them.
    pub attributes: Vec<(String, String)>,
    /// What stands in it.
    pub content: Vec<Node>,
}

/// What stands in an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Another element.
    Element(Element),
    /// Text, which is escaped when it is written.
    Text(String),
    /// Text that is written as it is, well-formed or not.
    Raw(String),
}

impl Element {
    /// An empty element.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an attribute where there is a value.
    #[must_use]
    pub fn opt(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a child.
    #[must_use]
    pub fn child(self, child: Self) -> Self {
        self.children([child])
    }

    /// Adds children.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.content.extend(children.into_iter().map(Node::Element));
        self
    }

    /// Adds text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.content.push(Node::Text(text.into()));
        self
    }

    /// An attribute's value.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let mut attributes = self.attributes.iter();
        let found = attributes.find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The children that are elements.
    pub fn elements(&self) -> impl Iterator<Item = &Self> {
        self.content.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The element and all elements below it.
    #[must_use]
    pub fn all(&self) -> Vec<&Self> {
        let mut all = vec![self];
        all.extend(self.elements().flat_map(Self::all));
        all
    }

    /// All elements of that name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.all()
            .into_iter()
            .filter(move |element| element.name == name)
    }

    /// Changes the element of that number, in the order of [`Element::all`].
    pub fn change(&mut self, number: usize, change: &mut dyn FnMut(&mut Self)) {
        fn visit(
            element: &mut Element,
            left: &mut usize,
            change: &mut dyn FnMut(&mut Element),
        ) -> bool {
            if *left == 0 {
                change(element);
                return true;
            }
            *left -= 1;
            element.content.iter_mut().any(|node| match node {
                Node::Element(child) => visit(child, left, change),
                _ => false,
            })
        }
        visit(self, &mut { number }, change);
    }
}
