//! C's memory: arrays that libvirt gives us, arrays and strings that it gets from us, our own objects.
//! Both sides use the C library's `malloc` and `free`.

use std::ffi::{CStr, CString, c_char, c_void};

use crate::abi::{Net, Port, Text};
use crate::libvirt::Libvirt;

/// What libvirt counts references of.
pub trait Object: Copy {
    /// Gives it back.
    fn give_back(self, libvirt: &Libvirt);
}

impl Object for Net {
    fn give_back(self, libvirt: &Libvirt) {
        libvirt.network_free(self);
    }
}

impl Object for Port {
    fn give_back(self, libvirt: &Libvirt) {
        libvirt.network_port_free(self);
    }
}

/// An object of ours, which is given back in the end.
pub struct Owned<'a, T: Object> {
    object: T,
    libvirt: &'a Libvirt,
}

impl<'a, T: Object> Owned<'a, T> {
    /// Takes over an object.
    pub const fn new(object: T, libvirt: &'a Libvirt) -> Self {
        Self { object, libvirt }
    }

    /// The object, which stays ours.
    pub const fn get(&self) -> T {
        self.object
    }

    /// The object, which is somebody else's from now on.
    pub fn into_inner(self) -> T {
        let object = self.object;
        std::mem::forget(self);
        object
    }
}

impl<T: Object> Drop for Owned<'_, T> {
    fn drop(&mut self) {
        self.object.give_back(self.libvirt);
    }
}

/// Takes over an array of `count` objects that libvirt made.
pub fn adopt<T: Object>(array: *mut T, count: usize, libvirt: &Libvirt) -> Vec<Owned<'_, T>> {
    if array.is_null() {
        return Vec::new();
    }
    let objects = (0..count)
        // SAFETY: libvirt said that the array has `count` objects.
        .map(|index| Owned::new(unsafe { *array.add(index) }, libvirt))
        .collect();
    // SAFETY: libvirt made the array with the C library's malloc, and it is the caller's to free.
    unsafe { libc::free(array.cast()) };
    objects
}

/// Stores objects as an array that ends with null and is the caller's to free. False where there is no
/// memory for it.
pub fn hand_over<T: Object>(objects: Vec<Owned<'_, T>>, place: *mut *mut T) -> bool {
    let size = size_of::<*mut c_void>();
    assert_eq!(size_of::<T>(), size);
    // SAFETY: calloc has no demands; the array is one longer than the objects.
    let array: *mut T = unsafe { libc::calloc(objects.len() + 1, size) }.cast();
    if array.is_null() {
        return false;
    }
    for (index, object) in objects.into_iter().enumerate() {
        // SAFETY: the array has room for all objects, each a pointer.
        unsafe { array.add(index).write(object.into_inner()) };
    }
    // SAFETY: libvirt gave the place for the array.
    unsafe { place.write(array) };
    true
}

/// A copy of a string of somebody else's; none of null.
pub fn text(raw: Text) -> Option<CString> {
    // SAFETY: a string of libvirt's ends with a NUL and is there as long as the object that it came of.
    (!raw.is_null()).then(|| unsafe { CStr::from_ptr(raw) }.to_owned())
}

/// A string that libvirt made for us, as text; none of null.
pub fn take_text(raw: *mut c_char) -> Option<String> {
    let text = text(raw)?.to_string_lossy().into_owned();
    // SAFETY: libvirt made the string with the C library's malloc, and it is the caller's to free.
    unsafe { libc::free(raw.cast()) };
    Some(text)
}
